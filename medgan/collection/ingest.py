"""Archive to collection: batches on Dask workers, one committer, one commit.

Killed at any moment, a rerun finds the finished batches and goes on; the collection changes only by the commit at
the end. A rerun on the same archive finds every instance known and commits nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import zarr

from medgan import keys
from medgan.archive import intake, prune, quarantine
from medgan.collection import (
    dispatch,
    durable,
    faces,
    judgement,
    landed,
    layout,
    merge,
    read,
    stage,
    staging,
    store,
    write,
)
from medgan.collection import labels as label_tables
from medgan.collection.accounting import Accounting
from medgan.collection.pace import Pace
from medgan.deid import audit, deface
from medgan.deid import labels as deid_labels
from medgan.deid import profile as profiles
from medgan.deid import structures as deid_structures
from medgan.errors import UnusableKey
from medgan.records import CollectionSnapshot, IngestPlan, IngestReport, QuarantineReason, QuarantineRecord, ScanReport
from medgan.settings import Zones

_MADE_WITH = "key"
"""Root attribute: a digest of the pseudonym key, which says nothing of it."""


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
    on_progress: dispatch.Progress | None = None,
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
            agree = partial(judgement.agree, expression.digest, judged_by)
            context = _cutting(context, found, accounting.pending, agree, workers=workers, scheduler=scheduler)
            digests["cuts"] = deface.digest(context.cuts)
        plan = dispatch.planned(found, accounting.pending, context.folder, digests)
        pace = Pace(path=layout.pace(collection, zones=zones), profile=expression.digest)
        dispatch.stage_all(
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
    return IngestReport(
        snapshot=snapshot,
        received=len(accounting.received),
        stored=len(accounting.stored),
        known=len(accounting.known),
        quarantined=accounting.reasons,
        withdrawn=len(accounting.withdrawn),
        pending=len(accounting.pending),
        labels_joined=label_tables.patients(table),
        labels_unmatched=len(labels) - label_tables.matched(table, labels),
        labels_left_out=deid_labels.left_out(found.labels, labels, keyring=keyring, columns=label_columns),
        outlined=int(table["instance_key"].drop_duplicates().isin(structures).sum()),
        masks=read.masks(table),
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


def _cutting(
    context: stage.StageContext,
    found: intake.Intake,
    pending: set[str],
    agree: Callable[[], None],
    *,
    workers: int | None,
    scheduler: str | None,
) -> stage.StageContext:
    """The context with where the faces lie of those studies that have something to store."""
    heads = [study.instances for study in found.studies if _pends(study, pending)]
    zones, key_handle = context.zones, context.key_handle
    cuts = faces.cuts(heads, zones=zones, key_handle=key_handle, agree=agree, workers=workers, scheduler=scheduler)
    return replace(context, cuts=cuts)


def _pends(study: Any, pending: set[str]) -> bool:
    """Whether an instance of a study is still to be stored; its other ones may be needed to find its face."""
    return any(locator.sha256 in pending for locator in study.instances)


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
