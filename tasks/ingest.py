"""Archive to collection."""

from __future__ import annotations

from medgan import keys
from medgan.archive import scan
from medgan.collection import ingest
from medgan.records import ArchiveRef, IngestPlan, IngestReport, Name, ScanReport
from tasks import page, runtime


@runtime.step("scan archive")
def scan_archive(archive: ArchiveRef) -> ScanReport:
    """Find the instances of a registered source and group them into studies."""
    zones = runtime.zones()
    with runtime.progress("scan archive") as report:
        found = scan.scan(archive, zones=zones, keyring=keys.load(zones.pseudonym_key), on_progress=report)
    refused = sum(found.rejected.values())
    runtime.log("scanned", instances=found.instances, studies=found.studies, rejected=refused, waiting=found.waiting)
    return found


@runtime.step("de-identify and store", retries=6)
def ingest_studies(scanned: ScanReport, collection: Name, profile: str, label_columns: tuple[str, ...]) -> IngestReport:
    """De-identify every study, verify it on its bytes, and commit the new ones to the collection."""
    zones = runtime.zones()
    with runtime.progress("de-identify and store") as report:
        done = ingest.ingest(
            scanned,
            zones=zones,
            key_handle=zones.pseudonym_key,
            collection=collection,
            profile=profile,
            label_columns=label_columns,
            workers=runtime.workers(),
            scheduler=runtime.scheduler(),
            on_progress=report,
            on_plan=_tell,
        )
    refused = sum(done.quarantined.values())
    runtime.log("stored", stored=done.stored, known=done.known, quarantined=refused, let_go=done.let_go)
    page.table(
        key="ingest-accounting",
        description="Received = stored + known + quarantined + pending, as sets of SHA-256.",
        rows=[
            {"what": "received", "instances": done.received},
            {"what": "stored", "instances": done.stored},
            {"what": "known already", "instances": done.known},
            {"what": "pending", "instances": done.pending},
            *({"what": f"quarantined: {reason}", "instances": n} for reason, n in sorted(done.quarantined.items())),
            *({"what": f"images with a mask: {name}", "instances": n} for name, n in done.masks.items()),
            {"what": "label values left out", "instances": done.labels_left_out},
            {"what": "landed copies let go of", "instances": done.let_go},
        ],
    )
    return done


def _tell(plan: IngestPlan) -> None:
    """What is ahead, before it begins."""
    seconds = plan.expected_seconds
    runtime.log("planned", instances=plan.instances, bytes=plan.bytes, batches=plan.batches, expected_seconds=seconds)
