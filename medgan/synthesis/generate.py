"""A model and a specification to a synthetic cohort: the same bytes on any number of workers.

Row i is drawn from the latent of id i under the spec's seed, so neither block size, order, retry nor resume changes
a byte. A run that was killed leaves `.<handle>.partial` behind; the next one keeps the shards that are whole.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.errors import ZarrUserWarning

from medgan import cluster
from medgan.cohort import read
from medgan.cohort.synthetic import IMAGES, LABELS, RECORD, SHARD_IMAGES, folder, open_images, pixel_digest, record
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.records import CohortSpec, SyntheticCohort, TrainedModel, canonical_json, sha256_hex
from medgan.settings import Zones
from medgan.synthesis import attributes, blocks

FORMAT = 1
"""Raised whenever the same model and specification would give other bytes."""
_IN_FLIGHT_PER_WORKER = 3

OnProgress = Callable[[int, int], None]


def generate(
    model: TrainedModel,
    spec: CohortSpec,
    *,
    zones: Zones,
    workers: int | None = None,
    scheduler: str | None = None,
    on_progress: OnProgress | None = None,
) -> SyntheticCohort:
    """Make the cohort, finish a half-made one, or return the finished one of this very model and spec.

    Raises:
        InvalidRequest: a class the model does not know, shares that do not sum to 1, or an unknown model.
        Conflict: another process is making this cohort now.
        StoreUnavailable: the scheduler or the disk does not answer.
    """
    handle = cohort_handle(model, spec)
    finished = record(handle, zones=zones)
    if finished is not None:
        return finished
    table = _attribute_table(model, spec, zones=zones)
    home = folder(handle, zones=zones)
    with _sole_writer(home) as staging:
        target = staging / IMAGES
        sampler = blocks.generator(model, zones)
        if not (target / "images" / "zarr.json").is_file():
            blocks.create_images(target, spec.images, model.size_px, sampler.attrs)
        _draw(_missing(model, spec, table, target, zones), spec.images, workers, scheduler, on_progress)
        return _finish(staging, home, table, model, spec)


def cohort_handle(model: TrainedModel, spec: CohortSpec) -> str:
    """`sy-` and 32 hex digits over what decides the bytes: weights, configuration, cohort, spec, format."""
    content = {
        "format": FORMAT,
        "generator": model.generator_sha256,
        "config": model.config_sha256,
        "cohort": model.cohort,
        "spec": spec.model_dump(mode="json"),
    }
    return "sy-" + sha256_hex(canonical_json(content))[:32]


def _attribute_table(model: TrainedModel, spec: CohortSpec, *, zones: Zones) -> pd.DataFrame:
    """The cohort's rows, decided before any image is drawn."""
    real = read.load(model.cohort, zones=zones).split("train")[2]
    shares = spec.class_shares or {
        str(name): float(share) for name, share in real["class"].value_counts(normalize=True).items()
    }
    counts = attributes.class_counts(spec.images, model.classes, shares)
    return attributes.attribute_table(spec.images, counts, attributes.joint_table(real), seed=spec.seed)


def _missing(
    model: TrainedModel, spec: CohortSpec, table: pd.DataFrame, target: Path, zones: Zones
) -> list[blocks.Block]:
    """The blocks whose shard is not there yet, or not whole."""
    index_of = {name: index for index, name in enumerate(model.classes)}
    class_index = np.array([index_of[name] for name in table["class"]], dtype=np.int64)
    ids = table["id"].to_numpy(dtype=np.int64)
    missing = []
    for start in range(0, spec.images, SHARD_IMAGES):
        stop = min(start + SHARD_IMAGES, spec.images)
        if not blocks.is_whole(target, start, stop):
            blocks.shard_path(target, start).unlink(missing_ok=True)
            rows = slice(start, stop)
            missing.append(
                blocks.Block(
                    target=target,
                    model=model,
                    zones=zones,
                    seed=spec.seed,
                    start=start,
                    ids=ids[rows],
                    class_index=class_index[rows],
                )
            )
    return missing


def _draw(
    todo: list[blocks.Block], total: int, workers: int | None, scheduler: str | None, on_progress: OnProgress | None
) -> None:
    """Run the blocks on Dask, a few a worker in flight, so that memory stays flat however many there are."""
    from distributed import as_completed

    done = total - sum(len(block.ids) for block in todo)
    if on_progress is not None:
        on_progress(done, total)
    if not todo:
        return
    count = None if workers is None else min(workers, len(todo))
    waiting = iter(todo)
    with cluster.open_client(workers=count, scheduler=scheduler) as client:
        slots = _IN_FLIGHT_PER_WORKER * max(1, len(client.scheduler_info()["workers"]))
        running = as_completed(  # type: ignore[no-untyped-call]
            [client.submit(blocks.write, block, pure=False) for block in islice(waiting, slots)]
        )
        for finished in running:
            done += finished.result()
            for block in islice(waiting, 1):
                running.add(client.submit(blocks.write, block, pure=False))  # type: ignore[no-untyped-call]
            if on_progress is not None:
                on_progress(done, total)


def _finish(staging: Path, home: Path, table: pd.DataFrame, model: TrainedModel, spec: CohortSpec) -> SyntheticCohort:
    """Labels, consolidated metadata and record; then one rename makes the cohort visible."""
    labels = tables.to_parquet(table)
    (staging / LABELS).write_bytes(labels)
    with warnings.catch_warnings():
        # "not part of the Zarr v3 specification": readers that do not know it ignore it
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(staging / IMAGES, zarr_format=3)
    made = SyntheticCohort(
        synthetic=home.name,
        model=model.model,
        cohort=model.cohort,
        spec=spec,
        images=spec.images,
        class_counts={name: int((table["class"] == name).sum()) for name in model.classes},
        size_px=model.size_px,
        pixel_sha256=pixel_digest(_shards(staging / IMAGES, spec.images)),
        labels_sha256=hashlib.sha256(labels).hexdigest(),
    )
    (staging / RECORD).write_bytes(made.canonical())
    _publish(staging, home)
    return made


def _shards(path: Path, images: int) -> Iterator[npt.NDArray[np.uint16]]:
    """The stored images, one shard at a time, in row order."""
    array = open_images(path)
    for start in range(0, images, SHARD_IMAGES):
        yield np.asarray(array[start : start + SHARD_IMAGES], dtype=np.uint16)


@contextmanager
def _sole_writer(home: Path) -> Iterator[Path]:
    """Yield the staging folder of `home`, kept between runs; one process at a time may hold it."""
    staging = home.with_name(f".{home.name}{durable.PARTIAL}")
    with durable.locked(home.parent / ".locks" / home.name, wait=False):
        staging.mkdir(parents=True, exist_ok=True)
        yield staging


def _publish(staging: Path, home: Path) -> None:
    """Drop what killed writers left, make everything durable, and rename the whole folder into place."""
    for leftover in staging.rglob(f"*{durable.PARTIAL}"):
        leftover.unlink()
    for path, _, names in os.walk(staging, topdown=False):
        for name in names:
            with (Path(path) / name).open("rb") as file:
                os.fsync(file.fileno())
        durable.fsync_folder(Path(path))
    staging.rename(home)
    durable.fsync_folder(home.parent)
