"""Collection to a restorer, archive to restored images."""

from __future__ import annotations

from medgan import keys
from medgan.records import ArchiveRef, CollectionSnapshot, Handle, RestorationReport, RestorerModel, RestorerRequest
from medgan.restoration import learn, run
from tasks import page, runtime


@runtime.step("train restorer", retries=1)
def train_restorer(snapshot: CollectionSnapshot, request: RestorerRequest) -> RestorerModel:
    """Learn to undo a degradation, or resume where a killed run stopped."""
    with runtime.progress("train restorer") as report:
        model = learn.train(snapshot, request, zones=runtime.zones(), on_progress=report)
    runtime.log("trained", restorer=model.restorer, psnr_db=model.psnr_db, naive_psnr_db=model.naive_psnr_db)
    return model


@runtime.step("restore archive")
def restore_archive(archive: ArchiveRef, restorer: Handle) -> RestorationReport:
    """Write derived instances beside the originals, in the identified zone."""
    zones = runtime.zones()
    with runtime.progress("restore archive") as progress:
        report = run.restore_source(
            archive, restorer, zones=zones, keyring=keys.load(zones.pseudonym_key), on_progress=progress
        )
    refused = sum(report.quarantined.values())
    runtime.log("restored", received=report.received, restored=report.restored, quarantined=refused)
    page.table(
        key="restoration",
        description="Received = restored + left alone + quarantined; originals stay as they are.",
        rows=[
            {"what": "received", "files": report.received},
            {"what": "restored", "files": report.restored},
            {"what": "left alone", "files": report.untouched},
            *({"what": f"quarantined: {reason}", "files": n} for reason, n in report.quarantined.items()),
        ],
    )
    return report
