"""Records about synthetic cohorts."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Handle, Record, Sha256


class CohortSpec(Record):
    """What to synthesise. Class shares follow the training cohort unless given."""

    images: int = Field(default=2048, ge=1, le=10_000_000)
    class_shares: dict[str, float] | None = Field(default=None, description="Class -> share, summing to 1.")
    seed: int = Field(default=0, ge=0)


class SyntheticCohort(Record):
    """A generated cohort in the synthetic zone."""

    synthetic: Handle
    model: Handle
    cohort: Handle
    spec: CohortSpec
    images: int
    class_counts: dict[str, int]
    size_px: int
    pixel_sha256: Sha256 = Field(description="Digest of the decoded image bytes in row order.")
    labels_sha256: Sha256
