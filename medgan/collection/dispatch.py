"""The work of an ingest as batches on Dask workers: planned in study order, staged a few at a time.

A batch that stands already, of a run that was killed, is not made again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medgan import cluster
from medgan.archive import intake
from medgan.collection import staging
from medgan.collection.pace import Pace
from medgan.collection.staging import Batch
from medgan.errors import StoreUnavailable
from medgan.records import IngestPlan

BATCH_INSTANCES = 64
BATCH_BYTES = 32 * 1024 * 1024
"""A batch ends at whichever comes first: small enough to lose, large enough to be worth a task."""
IN_FLIGHT_PER_WORKER = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every batch of a run, where they are staged, and how many instances of each study they hold."""

    batches: tuple[Batch, ...]
    folder: Path
    studies: Counter[str]


def planned(found: intake.Intake, pending: set[str], folder: Path, context: dict[str, str]) -> Plan:
    """Batches of what is pending, in study order, each source digest once."""
    work: list[tuple[str, Any]] = []
    left = set(pending)
    for study in sorted(found.studies, key=lambda study: study.key.key):
        for locator in study.instances:
            if locator.sha256 in left:
                left.discard(locator.sha256)
                work.append((study.key.key, locator))
    batches = tuple(Batch.of(part, context=context) for part in _parts(work))
    return Plan(batches=batches, folder=folder, studies=Counter(study for study, _ in work))


def _parts(work: Sequence[tuple[str, Any]]) -> Iterable[list[tuple[str, Any]]]:
    part: list[tuple[str, Any]] = []
    held_bytes = 0
    for study, locator in work:
        if part and (len(part) == BATCH_INSTANCES or held_bytes + locator.size > BATCH_BYTES):
            yield part
            part, held_bytes = [], 0
        part.append((study, locator))
        held_bytes += locator.size
    if part:
        yield part


def stage_all(
    plan: Plan,
    run: Callable[[Batch], str],
    *,
    workers: int | None,
    scheduler: str | None,
    report: Progress | None,
    pace: Pace,
    tell: Callable[[IngestPlan], None] | None,
) -> None:
    """Stage every batch that does not stand yet; a few are in flight at a time."""
    finished = staging.finished(plan.folder, plan.batches)
    left = Counter(plan.studies)
    waiting = [batch for batch in plan.batches if batch.name not in finished]
    _count_down(left, [batch for batch in plan.batches if batch.name in finished])
    if report is not None:
        report(len(plan.studies) - len(left), len(plan.studies))
    if not waiting:
        return
    with cluster.open_client(workers=workers, scheduler=scheduler) as client:
        from distributed import as_completed

        crew = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        if tell is not None:
            tell(pace.plan(waiting, workers=crew))
        started = time.monotonic()
        queue = iter(waiting)
        by_name = {batch.name: batch for batch in waiting}
        window = IN_FLIGHT_PER_WORKER * crew
        first = [client.submit(run, batch, pure=False) for batch in islice(queue, window)]
        flying = as_completed(first)  # type: ignore[no-untyped-call]
        for future in flying:
            _count_down(left, [by_name[_name_of(future)]])
            future.release()
            following = next(queue, None)
            if following is not None:
                flying.add(client.submit(run, following, pure=False))  # type: ignore[no-untyped-call]
            if report is not None:
                report(len(plan.studies) - len(left), len(plan.studies))
    pace.remember(waiting, workers=crew, seconds=time.monotonic() - started)


def _name_of(future: Any) -> str:
    """Name of the batch that a future staged; what Dask says of a dead worker is said in our words."""
    from distributed import KilledWorker

    try:
        name: str = future.result()
    except KilledWorker:
        message = "a worker died again and again on one batch: give it more memory, then run again to resume"
        raise StoreUnavailable(message) from None
    return name


def _count_down(left: Counter[str], batches: Iterable[Batch]) -> None:
    """Take the instances of finished batches off their studies; a study with none left is done."""
    for batch in batches:
        for study in batch.studies:
            left[study] -= 1
            if left[study] == 0:
                del left[study]
