"""Archive to collection: batches on Dask workers, one committer, one commit.

Killed at any moment, a rerun finds the finished batches and goes on; the collection changes only by the commit at
the end. A rerun on the same archive finds every instance known and commits nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import zarr

from medgan import cluster, keys
from medgan.archive import intake, prune, quarantine
from medgan.collection import durable, faces, judgement, landed, layout, merge, read, stage, staging, store, write
from medgan.collection import labels as label_tables
from medgan.collection.accounting import Accounting
from medgan.collection.pace import Pace
from medgan.collection.staging import Batch
from medgan.deid import audit, deface
from medgan.deid import labels as deid_labels
from medgan.deid import profile as profiles
from medgan.deid import structures as deid_structures
from medgan.errors import StoreUnavailable, UnusableKey
from medgan.records import CollectionSnapshot, IngestPlan, IngestReport, QuarantineReason, QuarantineRecord, ScanReport
from medgan.settings import Zones

BATCH_INSTANCES = 64
BATCH_BYTES = 32 * 1024 * 1024
"""A batch ends at whichever comes first: small enough to lose, large enough to be worth a task."""
IN_FLIGHT_PER_WORKER = 4
_MADE_WITH = "key"
"""Root attribute: a digest of the pseudonym key, which says nothing of it."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    batches: tuple[Batch, ...]
    folder: Path
    studies: Counter[str]


def ingest(
    scan: ScanReport,
    *,
    zones: Zones,
    key_handle: str,
    collection: str,
    profile: str = "basic",
    label_columns: tuple[str, ...] = ("finding", "sex", "age"),
    workers: int | None = None,
    scheduler: str | None = None,
    on_progress: Progress | None = None,
    on_plan: Callable[[IngestPlan], None] | None = None,
) -> IngestReport:
    """De-identify what the scan found and the collection does not hold, and commit it.

    `on_plan` is told first what is to be done, `on_progress` gets studies done and studies to do. Memory stays flat: a
    worker holds one instance, the committer one shard and the table.

    Raises:
        Conflict: another ingest is writing to this collection.
        InvalidRequest: the scan is not known here, the profile is not one, or the landing's days are no number.
        StoreUnavailable: a disk or the Dask scheduler did not answer; running again resumes.
        UnusableKey: the key is none, or not the one that the collection was made with.
    """
    started, days = time.monotonic(), prune.days_kept()
    keyring = keys.load(key_handle)
    expression = profiles.load(profile)
    found = intake.load(scan.scan_id, zones=zones, keyring=keyring)
    labels = deid_labels.pseudonymise(found.labels, keyring=keyring, columns=label_columns)
    structures = deid_structures.of_images(found.marks)
    judged_by = judgement.rules(expression.digest)
    context = stage.StageContext(
        zones=zones, key_handle=key_handle, profile=profile, folder=layout.staging(collection, zones=zones),
        judged_by=judged_by,
    )  # fmt: skip
    with store.writer(collection, zones=zones) as writer:
        _check_key(writer.group, keyring)
        table = read.table_of(writer.group)
        resumed = context.folder.exists()  # a run that ends well leaves none
        withdrawn = read.withdrawn(writer.group)
        accounting = _opening(found, table, withdrawn)
        accounting.quarantined |= judgement.remembered(found, accounting.pending, judged_by, zones=zones)
        digests = {"rules": judged_by, "key": keyring.mac("staging").hex()}
        if deface.OPTION in expression.options:
            heads = [study.instances for study in found.studies if _pends(study, accounting.pending)]
            agree = partial(judgement.agree, expression.digest, judged_by)
            cuts = faces.cuts(
                heads, zones=zones, key_handle=key_handle, agree=agree, workers=workers, scheduler=scheduler
            )
            context = replace(context, cuts=cuts)
            digests["cuts"] = deface.digest(cuts)
        plan = _plan(found, accounting.pending, context.folder, digests)
        pace = Pace(path=layout.pace(collection, zones=zones), profile=expression.digest)
        _stage_all(
            plan, partial(stage.run, context=context), workers=workers, scheduler=scheduler, report=on_progress,
            pace=pace, tell=on_plan,
        )  # fmt: skip
        merged = merge.settle(plan.batches, plan.folder, table, accounting, withdrawn=withdrawn.patients)
        _quarantine_conflicts(merged.conflicts, zones)
        accounting.check()
        _audit(collection, merged.folders, accounting, zones)
        snapshot = _commit(writer, merged.rows, merged.folders, labels, structures, keyring)
        accounting.keep(scan.scan_id, zones=zones)
        if resumed:
            writer.collect_garbage()
        staging.finished(plan.folder, ())
        if snapshot != writer.head:
            table = read.table_of(writer.group)
        gone = landed.let_go(
            found.source, held=accounting.stored | accounting.known,
            withdrawn=accounting.withdrawn | withdrawn.patients, days=days, zones=zones, keyring=keyring,
        )  # fmt: skip
    matched = label_tables.matched(table, labels)
    return IngestReport(
        snapshot=snapshot,
        received=len(accounting.received),
        stored=len(accounting.stored),
        known=len(accounting.known),
        quarantined=accounting.reasons,
        withdrawn=len(accounting.withdrawn),
        pending=len(accounting.pending),
        labels_joined=label_tables.patients(table),
        labels_unmatched=len(labels) - matched,
        labels_left_out=deid_labels.left_out(found.labels, labels, keyring=keyring, columns=label_columns),
        outlined=int(table["instance_key"].drop_duplicates().isin(structures).sum()),
        let_go=gone.let_go,
        profile=expression.name,
        profile_digest=expression.digest,
        seconds=time.monotonic() - started,
    )


def _of_key(keyring: keys.Keyring) -> str:
    return keyring.mac("collection").hex()


def _check_key(root: zarr.Group, keyring: keys.Keyring) -> None:
    """`UnusableKey` where the collection was made with another key: each of its patients would become two."""
    if root.attrs.get(_MADE_WITH, _of_key(keyring)) != _of_key(keyring):
        message = "this collection was made with another pseudonym key: use that key, or another collection"
        raise UnusableKey(message)


def _opening(found: intake.Intake, table: pd.DataFrame, withdrawn: read.Withdrawn) -> Accounting:
    """What is known, withdrawn or was refused by the scan before any work is done."""
    accounting = Accounting(received=found.received)
    accounting.known = set(table["source_sha256"]) & found.received
    present = {locator.sha256 for study in found.studies for locator in study.instances}
    unread = found.received - present - accounting.known
    accounting.quarantined = {sha256: found.refused[sha256] for sha256 in sorted(unread)}
    accounting.withdrawn = present & withdrawn.sources
    return accounting


def _pends(study: Any, pending: set[str]) -> bool:
    """Whether an instance of a study is still to be stored; its other ones may be needed to find its face."""
    return any(locator.sha256 in pending for locator in study.instances)


def _plan(found: intake.Intake, pending: set[str], folder: Path, context: dict[str, str]) -> _Plan:
    """Batches of what is pending, in study order, each source digest once."""
    work: list[tuple[str, Any]] = []
    left = set(pending)
    for study in sorted(found.studies, key=lambda study: study.key.key):
        for locator in study.instances:
            if locator.sha256 in left:
                left.discard(locator.sha256)
                work.append((study.key.key, locator))
    batches = tuple(Batch.of(part, context=context) for part in _parts(work))
    return _Plan(batches=batches, folder=folder, studies=Counter(study for study, _ in work))


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


def _stage_all(
    plan: _Plan,
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


def _commit(
    writer: store.Writer,
    rows: pd.DataFrame,
    folders: Sequence[Path],
    labels: pd.DataFrame,
    structures: Mapping[str, str],
    keyring: keys.Keyring,
) -> CollectionSnapshot:
    """Relabel what is there, append what is new, commit; without a change there is no commit."""
    changed = False
    for number, part in enumerate(read.parts_of(writer.group)):
        relabelled = label_tables.join(part, labels, structures)
        if not relabelled.equals(part):
            write.write_part(writer.group, number, relabelled)
            changed = True
    if not rows.empty:
        writer.group.attrs[_MADE_WITH] = _of_key(keyring)
        labelled = label_tables.join(rows, labels, structures).assign(batch=rows["batch"])
        write.append(writer, labelled, partial(staging.frames, folders))
    if rows.empty and not changed:
        return writer.head
    instances = rows["instance_key"].nunique()
    return write.commit(writer, f"ingest: {instances} instances added" + (", labels changed" if changed else ""))


def _audit(collection: str, folders: Sequence[Path], accounting: Accounting, zones: Zones) -> None:
    """One chained line an instance of this run, by source digest; before the commit, so nothing is stored unsaid."""
    lines = {}
    for folder in folders:
        for sha256, done in staging.audit(folder).items():
            if sha256 in accounting.withdrawn:
                lines[sha256] = {"outcome": "withdrawn"}  # names no key: nothing more is said of who was erased
            elif sha256 not in accounting.quarantined:
                lines[sha256] = {**done, "outcome": "stored" if sha256 in accounting.stored else "known"}
        refused = {*staging.refused(folder), *staging.audit(folder)} & accounting.quarantined.keys()
        lines |= {sha256: {"outcome": "quarantined", "reason": accounting.quarantined[sha256]} for sha256 in refused}
    if lines:
        with durable.explained_disk():
            target = layout.audit(collection, zones=zones)
            audit.extend(target, ({"source_sha256": sha256, **lines[sha256]} for sha256 in sorted(lines)))


def _quarantine_conflicts(conflicts: dict[str, str], zones: Zones) -> None:
    """Leave a record for every second content that came under an instance's UID."""
    for sha256, study in conflicts.items():
        reason = QuarantineReason.CONFLICT
        quarantine.record(zones, QuarantineRecord(sha256=sha256, reason=reason, stage="commit", study=study))
