"""Archive -> collection."""

from __future__ import annotations

from prefect import flow

from medgan.records import ArchiveRef, IngestOutcome, Name
from tasks import runtime
from tasks.ingest import ingest_studies, scan_archive


@flow(name="ingest")
def ingest(
    archive: ArchiveRef,
    collection: Name = "main",
    profile: str = "basic+clean-pixel-data",
    label_columns: tuple[str, ...] = ("finding", "sex", "age"),
) -> IngestOutcome:
    """Scan a registered archive, de-identify it, and commit what is new to the collection.

    Args:
        archive: The registered source to read.
        collection: The collection that receives the studies.
        profile: De-identification profile and options, for example `basic+modified-dates`.
        label_columns: Columns of the label tables to keep; every other one is dropped.
    """
    runtime.give_up_when_it_dies_too_often()
    scanned = scan_archive(archive)
    return IngestOutcome(scan=scanned, ingest=ingest_studies(scanned, collection, profile, label_columns))
