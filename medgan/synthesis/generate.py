"""A model and a specification to a synthetic cohort: the same bytes on any number of workers.

Row i is drawn from the latent of sample id i under the spec's seed, so neither block size, order, retry nor resume
changes a byte. A run that was killed leaves `.<handle>.partial` behind; the next one keeps the shards that are whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort import read
from medgan.cohort.synthetic import IMAGES, folder, record, usual_images
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.gan import sample
from medgan.gan.level import refuse_patient_level
from medgan.records import CohortSpec, SyntheticCohort, TrainedModel, canonical_json, sha256_hex
from medgan.settings import Zones
from medgan.synthesis import blocks, conditions, draws, fidelity, finish, rows
from medgan.synthesis.dispatch import OnProgress, Run, draw

_ASKED = "asked.parquet"


def generate(
    model: TrainedModel,
    spec: CohortSpec,
    *,
    zones: Zones,
    workers: int | None = None,
    scheduler: str | None = None,
    on_progress: OnProgress | None = None,
    run: Run | None = None,
) -> SyntheticCohort:
    """Make the cohort, finish a half-made one, or return the finished one of this very model and spec.

    `run` says more of where and how than `workers`, `scheduler` and `on_progress` do, and replaces them.

    Raises:
        InvalidRequest: something is asked for that is unknown, unsupported or impossible (nothing was written), an
            unknown model, or a resource that no worker has.
        PrivacyRefused: the model was adapted to single patients.
        InvalidRequest: a class the model does not know, shares that do not sum to 1, or an unknown model.
        Conflict: another process is making this cohort now.
        StoreUnavailable: the scheduler, its workers or the disk do not answer.
    """
    run = run or Run(workers=workers, scheduler=scheduler, on_progress=on_progress)
    refuse_patient_level(model.model, zones=zones)
    handle = cohort_handle(model, spec)
    finished = record(handle, zones=zones)
    if finished is not None:
        return finished
    decided = rows.decide(model, spec, zones=zones)
    sampler = blocks.generator(model, zones, spec.precision)
    class_index = class_index_of(decided.table, model)
    recognise = fidelity.held_to_it(model, spec, sampler, class_index, zones=zones) if spec.redraw_attempts else None
    home = folder(handle, zones=zones)
    with sole_writer(home) as staging:
        with durable.explained_disk():
            target = _begin(staging, decided.table, model, sampler, run, zones)
        digests, todo = _standing(_blocks(target, model, spec, decided.table, class_index, recognise, zones))
        digests |= draw(todo, spec.images, run)
        table, seen = _as_drawn(target, decided.table, spec)
        facts: dict[str, Any] = {"attribute_privacy": decided.privacy, "redrawn": draws.again(table["id"].to_numpy())}
        if seen is not None:
            facts["fidelity"] = fidelity.measured(model, seen, class_index, zones=zones)
        return finish.finish(staging, home, table, digests, model, spec, **facts)


def cohort_handle(model: TrainedModel, spec: CohortSpec) -> str:
    """`sy-` and 32 hex digits over what decides the bytes: weights, configuration, cohort, spec, format."""
    content = {
        "format": blocks.FORMAT,
        "generator": model.generator_sha256,
        "config": model.config_sha256,
        "cohort": model.cohort,
        "spec": spec.model_dump(mode="json"),
    }
    if model.outliner is not None:
        content["outliner"] = model.outliner.weights_sha256
    return "sy-" + sha256_hex(canonical_json(content))[:32]


def class_index_of(table: pd.DataFrame, model: TrainedModel) -> npt.NDArray[np.int64]:
    """(N,) int64: index of each row's class in the model's classes."""
    index_of = {name: index for index, name in enumerate(model.classes)}
    return np.array([index_of[name] for name in table["class"]], dtype=np.int64)


def _begin(
    staging: Path, table: pd.DataFrame, model: TrainedModel, sampler: sample.Sampler, run: Run, zones: Zones
) -> Path:
    """The array to write to. Shards drawn for another table (another release of a library decided it) are dropped."""
    target, asked = staging / IMAGES, tables.to_parquet(table)
    if not (staging / _ASKED).is_file() or (staging / _ASKED).read_bytes() != asked:
        for leftover in staging.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        durable.write_bytes(staging / _ASKED, asked)
    if not (target / "images" / "zarr.json").is_file():
        followed = read.record(model.cohort, zones=zones)
        modalities = followed.recipe.modalities if followed else ()
        attrs = sampler.attrs | ({"modality": modalities[0]} if len(modalities) == 1 else {})
        rows_a_block = run.block_images or usual_images(sampler.shape)
        structures, shape = blocks.structures_of(model), (len(table), *sampler.shape)
        blocks.create_images(target, shape, attrs, block_images=rows_a_block, structures=structures)
    return target


def _blocks(
    target: Path,
    model: TrainedModel,
    spec: CohortSpec,
    table: pd.DataFrame,
    class_index: npt.NDArray[np.int64],
    recognise: npt.NDArray[np.bool_] | None,
    zones: Zones,
) -> Iterator[blocks.Block]:
    """Every block of the cohort, in row order, as large as the array's shards."""
    given = conditions.of(table, blocks.generator(model, zones, spec.precision), seed=spec.seed)
    ids = table["id"].to_numpy(dtype=np.int64)
    for part, shard, rows_a_shard in blocks.parts(target):
        yield blocks.Block(
            target=target,
            shard=shard,
            shard_rows=rows_a_shard,
            model=model,
            zones=zones,
            seed=spec.seed,
            precision=spec.precision,
            start=part.start,
            ids=ids[part],
            class_index=class_index[part],
            conditions={name: values[part] for name, values in given.items()},
            attempts=spec.redraw_attempts,
            recognise=None if recognise is None else recognise[part],
        )


def _standing(every: Iterable[blocks.Block]) -> tuple[dict[int, blocks.Digests], list[blocks.Block]]:
    """Digests of the blocks that stand, by first row, and the others; what is left of a broken shard is removed."""
    digests, todo = {}, []
    for block in every:
        found = blocks.kept(block)
        if found is None:
            block.shard.unlink(missing_ok=True)
            todo.append(block)
        else:
            digests[block.start] = found
    return digests, todo


def _as_drawn(target: Path, table: pd.DataFrame, spec: CohortSpec) -> tuple[pd.DataFrame, npt.NDArray[np.bool_] | None]:
    """The table with the sample ids that were drawn in the end, and (N,) whether each row's class was recognised."""
    if not spec.redraw_attempts:
        return table, None
    parts = [draws.unpack(blocks.drawn_path(target, rows.start).read_bytes()) for rows, _, _ in blocks.parts(target)]
    return table.assign(id=np.concatenate([ids for ids, _ in parts])), np.concatenate([seen for _, seen in parts])


@contextmanager
def sole_writer(home: Path) -> Iterator[Path]:
    """Yield the staging folder of `home`, kept between runs; one process at a time may hold it."""
    staging = home.with_name(f".{home.name}{durable.PARTIAL}")
    with durable.locked(home.parent / ".locks" / home.name, wait=False):
        with durable.explained_disk():
            staging.mkdir(parents=True, exist_ok=True)
        yield staging
