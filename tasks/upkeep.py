"""What has to be forgotten: one patient, old runs of Prefect's database, old states of a collection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from medgan.collection import erase, store
from medgan.records import Erasure, Handle, Name
from tasks import page, runtime

_AT_ONCE = 200
"""Runs asked for in one request: the server's own limit of a page."""


@runtime.step("erase patient", retries=6)
def erase_patient(patient: Handle, collection: Name, grace_days: int) -> Erasure:
    """Erase a patient from the collection, its history after the grace, and every cohort."""
    done = erase.erase(collection, patient, zones=runtime.zones(), grace=timedelta(days=grace_days))
    runtime.log(
        "erased", patient=done.patient, frames=done.frames, snapshots_expired=done.snapshots_expired,
        landed=done.landed, landed_shared=done.landed_shared,
    )  # fmt: skip
    page.table(
        "erasure",
        "What was made with this patient's images. Generators are to be trained again, releases to be reconsidered.",
        [
            {"what": what, "name": name}
            for what, names in (
                ("cohort, deleted", done.cohorts),
                ("generator, train again", done.models),
                ("synthetic cohort", done.synthetic),
                ("release, reconsider: medgan withdraw", done.releases),
                ("restorer, train again", done.restorers),
                ("no pseudonym says whose images it holds: look", done.nameless),
            )
            for name in names
        ],
    )
    return done


@runtime.step("expire history")
def expire_history(collection: Name, keep_days: int) -> int:
    """Let states of the collection go that are older than that, but the newest; returns how many."""
    older_than = datetime.now(UTC) - timedelta(days=keep_days)
    expired = store.forget_history(collection, older_than=older_than, zones=runtime.zones())
    runtime.log("expired", collection=collection, states=expired)
    return expired


@runtime.step("forget runs")
def forget_runs(keep_days: int) -> int:
    """Delete runs that ended before that from Prefect's database, which only grows by itself; returns how many."""
    before = datetime.now(UTC) - timedelta(days=keep_days)
    ended = FlowRunFilter(end_time=FlowRunFilterEndTime(before_=before))
    count = 0
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_run_filter=ended, limit=_AT_ONCE, sort=FlowRunSort.END_TIME_DESC):
            for run in runs:
                try:
                    client.delete_flow_run(run.id)
                except ObjectNotFound:
                    continue  # a subflow's run went with its parent's
                count += 1
    runtime.log("forgot", runs=count, older_than_days=keep_days)
    return count
