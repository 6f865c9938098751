"""Some rows of a finished cohort drawn again: the same cohort otherwise, under a handle of its own.

For whoever finds images that must not stay: copies of a real patient, a wrong label. Rows, attempt and the cohort they
start from decide every byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort import synthetic
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import SyntheticCohort, TrainedModel, canonical_json, sha256_hex
from medgan.settings import Zones
from medgan.synthesis import blocks, conditions, draws, finish, generate
from medgan.synthesis.dispatch import Run, draw


def redraw(
    cohort: SyntheticCohort, rows: Sequence[int], attempt: int, *, zones: Zones, run: Run | None = None
) -> SyntheticCohort:
    """`cohort` with the images of `rows` drawn from latents that no row had before; attributes stay as they are.

    Untouched shards are shared with the cohort it starts from (hard links). Calling it again returns what is finished.

    Raises:
        InvalidRequest: no rows, a row that the cohort does not have, an attempt below 1, or a model that is gone.
        IntegrityError: the stored cohort is not the one given, or its labels are not what its record says.
    """
    run = run or Run()
    stored = synthetic.record(cohort.synthetic, zones=zones)
    if stored is None:
        raise InvalidRequest(f"there is no synthetic cohort {cohort.synthetic}: generate it first")
    if stored != cohort:
        raise IntegrityError(f"the record given for synthetic cohort {cohort.synthetic} is not the one in the store")
    chosen = np.unique(np.asarray(list(rows), dtype=np.int64))
    if not len(chosen) or chosen[0] < 0 or chosen[-1] >= cohort.images:
        raise InvalidRequest(f"rows to draw again lie between 0 and {cohort.images - 1:,}, and there is at least one")
    fresh_ids = draws.attempt_id(chosen, attempt)
    content = {"format": blocks.FORMAT, "from": cohort.synthetic, "pixels": cohort.pixel_sha256}
    handle = "sy-" + sha256_hex(canonical_json(content | {"rows": chosen.tolist(), "attempt": attempt}))[:32]
    finished = synthetic.record(handle, zones=zones)
    if finished is not None:
        return finished
    source, home = (synthetic.folder(name, zones=zones) for name in (cohort.synthetic, handle))
    labels = (source / synthetic.LABELS).read_bytes()
    if sha256_hex(labels) != cohort.labels_sha256:
        raise IntegrityError(f"the labels of synthetic cohort {cohort.synthetic} are not what its record says")
    table = tables.from_parquet(labels)
    ids = table["id"].to_numpy(dtype=np.int64).copy()
    if np.isin(fresh_ids, ids).any():
        raise InvalidRequest(f"attempt {attempt} was made before for some of these rows: take the next number")
    ids[chosen] = fresh_ids
    table = table.assign(id=ids)
    with generate.sole_writer(home) as staging:
        digests, todo = _blocks(cohort, table, chosen, staging / synthetic.IMAGES, source / synthetic.IMAGES, zones)
        digests |= draw(todo, cohort.images, run)
        return finish.finish(
            staging,
            home,
            table,
            digests,
            model_of(cohort, zones=zones),
            cohort.spec,
            attribute_privacy=cohort.attribute_privacy,
            redrawn=draws.again(ids),
            redrawn_from=cohort.synthetic,
        )


def model_of(cohort: SyntheticCohort, *, zones: Zones) -> TrainedModel:
    """The record of the model that made a cohort; `InvalidRequest` where it is gone."""
    return trained_model(cohort.model, zones=zones)


def trained_model(handle: str, *, zones: Zones) -> TrainedModel:
    """The record of the model with this handle; `InvalidRequest` where there is none."""
    if not re.fullmatch(r"mo-[0-9a-f]{16,64}", handle):
        raise InvalidRequest("a model's handle is mo- and 16 to 64 hex digits")
    try:
        text = (zones.pseudonymised / "models" / handle / "model.json").read_bytes()
    except OSError:
        raise InvalidRequest("there is no finished model of that handle: train it first") from None
    return TrainedModel.model_validate_json(text)


def _blocks(
    cohort: SyntheticCohort,
    table: pd.DataFrame,
    chosen: npt.NDArray[np.int64],
    target: Path,
    source: Path,
    zones: Zones,
) -> tuple[dict[int, blocks.Digests], list[blocks.Block]]:
    """Link the shards that stay: the digests of those that stand, and the ones that are to be written."""
    model, images = model_of(cohort, zones=zones), synthetic.open_images(source)
    if not (target / "images" / "zarr.json").is_file():
        size = (images.shards or (synthetic.SHARD_IMAGES,))[0]
        attrs, structures = dict(images.attrs.asdict()), blocks.structures_of(model)
        blocks.create_images(target, images.shape, attrs, block_images=size, structures=structures)
    sampler = blocks.generator(model, zones, cohort.spec.precision)
    given = conditions.of(table, sampler, seed=cohort.spec.seed)
    class_index, ids = generate.class_index_of(table, model), table["id"].to_numpy(dtype=np.int64)
    fresh = np.zeros(len(table), dtype=bool)
    fresh[chosen] = True
    digests, todo = {}, []
    for part, shard, rows_a_shard in blocks.parts(target):
        if not fresh[part].any():
            for path in [shard, *([blocks.masks_shard(target, shard)] if model.outliner else [])]:
                _link(source / path.relative_to(target), path)
        block = blocks.Block(
            target=target,
            shard=shard,
            shard_rows=rows_a_shard,
            model=model,
            zones=zones,
            seed=cohort.spec.seed,
            precision=cohort.spec.precision,
            start=part.start,
            ids=ids[part],
            class_index=class_index[part],
            conditions={name: values[part] for name, values in given.items()},
            source=source,
            fresh=fresh[part],
        )
        stands = blocks.kept(block)
        if stands is not None:
            digests[part.start] = stands
        else:
            shard.unlink(missing_ok=True)
            todo.append(block)
    return digests, todo


def _link(source: Path, path: Path) -> None:
    """Share a shard; a store without hard links gets a copy."""
    if path.exists():
        return
    with durable.explained_disk():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path)
        except OSError:
            durable.write_bytes(path, source.read_bytes())
