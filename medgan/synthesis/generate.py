"""A model and a specification to a synthetic cohort: the same bytes on any number of workers.

Row i is drawn from the latent of sample id i under the spec's seed, so neither block size, order, retry nor resume
changes a byte. A run that was killed leaves `.<handle>.partial` behind; the next one keeps the shards that are whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan import cluster
from medgan.cohort import read
from medgan.cohort.synthetic import CHUNK_IMAGES, IMAGES, folder, record
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.gan import sample
from medgan.gan.level import refuse_patient_level
from medgan.records import CohortSpec, SyntheticCohort, TrainedModel, canonical_json, sha256_hex
from medgan.settings import Zones
from medgan.synthesis import blocks, conditions, draws, fidelity, finish, rows

if TYPE_CHECKING:
    from distributed import Client

_IN_FLIGHT_PER_WORKER = 3
_ASKED = "asked.parquet"

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where and how blocks are drawn; nothing here changes a byte.

    `workers` of the embedded cluster (one a core if None), or a Dask `scheduler` address; `resources` each block needs
    (`{"GPU": 1}`); `block_images` a block and shard, a multiple of 16 (None: `blocks.usual_images`);
    `on_progress(done, total)` counts images.
    """

    workers: int | None = None
    scheduler: str | None = None
    resources: Mapping[str, float] | None = None
    block_images: int | None = None
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        """Refuse a block that is no whole number of chunks."""
        if self.block_images is not None and (self.block_images < CHUNK_IMAGES or self.block_images % CHUNK_IMAGES):
            raise InvalidRequest(f"a block holds a multiple of {CHUNK_IMAGES} images, not {self.block_images}")


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
        rows_a_block = run.block_images or blocks.usual_images(sampler.shape)
        blocks.create_images(target, (len(table), *sampler.shape), attrs, block_images=rows_a_block)
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
    size = blocks.block_rows(target)
    given = conditions.of(table, blocks.generator(model, zones, spec.precision), seed=spec.seed)
    ids = table["id"].to_numpy(dtype=np.int64)
    for start in range(0, len(table), size):
        part = slice(start, min(start + size, len(table)))
        yield blocks.Block(
            target=target,
            model=model,
            zones=zones,
            seed=spec.seed,
            precision=spec.precision,
            start=start,
            ids=ids[part],
            class_index=class_index[part],
            conditions={name: values[part] for name, values in given.items()},
            attempts=spec.redraw_attempts,
            recognise=None if recognise is None else recognise[part],
        )


def _standing(every: Iterable[blocks.Block]) -> tuple[dict[int, bytes], list[blocks.Block]]:
    """Digests of the blocks that stand, by first row, and the others; what is left of a broken shard is removed."""
    digests, todo = {}, []
    for block in every:
        found = blocks.kept(block.target, block.start, block.start + len(block), drawn=block.recognise is not None)
        if found is None:
            blocks.shard_path(block.target, block.start).unlink(missing_ok=True)
            todo.append(block)
        else:
            digests[block.start] = found
    return digests, todo


def draw(todo: list[blocks.Block], total: int, run: Run) -> dict[int, bytes]:
    """Run the blocks on Dask, a few a worker in flight, so that memory stays flat; gives digests by first row."""
    from distributed import KilledWorker, as_completed

    done = total - sum(len(block) for block in todo)
    digests: dict[int, bytes] = {}
    if run.on_progress is not None:
        run.on_progress(done, total)
    if not todo:
        return digests
    count = None if run.workers is None else min(run.workers, len(todo))
    waiting = iter(todo)
    with cluster.open_client(workers=count, scheduler=run.scheduler) as client:
        slots = _IN_FLIGHT_PER_WORKER * _checked_workers(client, todo[0], run)

        def submitted(some: Iterable[blocks.Block]) -> list[Any]:
            needs = dict(run.resources) if run.resources else None
            return [client.submit(blocks.write, block, pure=False, resources=needs) for block in some]

        running = as_completed(submitted(islice(waiting, slots)))  # type: ignore[no-untyped-call]
        for finished in running:
            try:
                written: blocks.Written = finished.result()
            except KilledWorker:
                raise StoreUnavailable(
                    "one block ended several workers, most likely for want of memory: give workers more memory or take "
                    "smaller blocks, then run again; what is drawn is kept"
                ) from None
            digests[written.start] = written.digests
            done += written.images
            for future in submitted(islice(waiting, 1)):
                running.add(future)  # type: ignore[no-untyped-call]
            if run.on_progress is not None:
                run.on_progress(done, total)
    return digests


def _checked_workers(client: Client, block: blocks.Block, run: Run) -> int:
    """How many workers can take a block; refused at once where none can: Dask would wait for ever in silence."""
    cluster.wait_for_workers(client)
    able = cluster.workers_with(client, run.resources or {})
    seen = client.run(blocks.sees, block.target, block.model, block.zones, workers=able)
    if any(version != blocks.FORMAT for version, _ in seen.values()):
        raise InvalidRequest("some of the scheduler's workers run another version of medgan: install the same on all")
    if not all(there for _, there in seen.values()):
        raise InvalidRequest(
            "some of the scheduler's workers do not see the zones where this process sees them: mount them at one path"
        )
    return len(able)


def _as_drawn(target: Path, table: pd.DataFrame, spec: CohortSpec) -> tuple[pd.DataFrame, npt.NDArray[np.bool_] | None]:
    """The table with the sample ids that were drawn in the end, and (N,) whether each row's class was recognised."""
    if not spec.redraw_attempts:
        return table, None
    size = blocks.block_rows(target)
    parts = [draws.unpack(blocks.drawn_path(target, start).read_bytes()) for start in range(0, len(table), size)]
    return table.assign(id=np.concatenate([ids for ids, _ in parts])), np.concatenate([seen for _, seen in parts])


@contextmanager
def sole_writer(home: Path) -> Iterator[Path]:
    """Yield the staging folder of `home`, kept between runs; one process at a time may hold it."""
    staging = home.with_name(f".{home.name}{durable.PARTIAL}")
    with durable.locked(home.parent / ".locks" / home.name, wait=False):
        staging.mkdir(parents=True, exist_ok=True)
        yield staging
