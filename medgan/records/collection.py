"""Records about the de-identified collection."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Name, Record, Sha256, nothing


class CollectionSnapshot(Record):
    """One immutable state of a collection, by its Icechunk snapshot."""

    collection: Name
    snapshot_id: str = Field(pattern=r"^[A-Z0-9]{20}$", description="Icechunk snapshot id.")
    instances: int = Field(ge=0)
    series: int = Field(ge=0)
    studies: int = Field(ge=0)
    patients: int = Field(ge=0)
    table_sha256: Sha256 = Field(description="Digest of the table of kept attributes.")


class IngestPlan(Record):
    """What an ingest is about to do, told before it is done."""

    instances: int = Field(ge=0)
    bytes: int = Field(ge=0)
    batches: int = Field(
        ge=0, description="Tasks of the Dask cluster; those of a killed run that stand are not among them."
    )
    expected_seconds: float = Field(ge=0, description="By the pace of the last ingest with this profile.")


class IngestReport(Record):
    """The accounting of one ingest, as sets of SHA-256.

    received = stored + known + quarantined + withdrawn + pending; what the scan refused is among the quarantined.
    """

    snapshot: CollectionSnapshot
    received: int = Field(ge=0)
    stored: int = Field(ge=0, description="New instances of this run.")
    known: int = Field(ge=0, description="Instances that the collection already held, byte for byte.")
    quarantined: dict[str, int] = Field(default_factory=dict, description="Refused, by reason code.")
    withdrawn: int = Field(default=0, ge=0, description="Of patients who were erased from the collection: not stored.")
    pending: int = Field(ge=0)
    labels_joined: int = Field(ge=0, description="Patients in the collection who have a label.")
    labels_unmatched: int = Field(ge=0, description="Patients of the archive's label tables with no image here.")
    labels_left_out: int = Field(
        default=0, ge=0, description="Label values that name no class, or contradict each other: empty in the table."
    )
    outlined: int = Field(
        default=0,
        ge=0,
        description="Images in the collection on which a segmentation or structure set outlines something.",
    )
    masks: dict[str, int] = Field(
        default_factory=dict,
        exclude_if=nothing,
        description="Images in the collection with a mask, by structure: the names that a recipe asks by.",
    )
    let_go: int = Field(default=0, ge=0, description="Landed copies of a remote archive that were deleted afterwards.")
    profile: str
    profile_digest: Sha256
    seconds: float = Field(ge=0)
