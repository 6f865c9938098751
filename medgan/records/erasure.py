"""Record of a patient who withdrew."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Handle, Record


class Erasure(Record):
    """What was erased for one patient, and what was made with the patient's images before."""

    patient: Handle
    collections: tuple[str, ...] = Field(default=(), description="Collections that this patient was erased from.")
    frames: int = Field(default=0, ge=0, description="Frames overwritten and dropped from the tables.")
    snapshots_expired: int = Field(default=0, ge=0, description="States of the past that are gone.")
    cohorts: tuple[Handle, ...] = Field(default=(), description="Cohorts that held the patient; deleted.")
    models: tuple[Handle, ...] = Field(
        default=(), description="Generators trained on one of them, or adapted from such: retrain."
    )
    synthetic: tuple[Handle, ...] = Field(default=(), description="Synthetic cohorts drawn from one of those.")
    releases: tuple[str, ...] = Field(default=(), description="Published versions (name@version) to reconsider.")
    landed: int = Field(default=0, ge=0, description="Landed copies of remote archives that were deleted.")
    landed_shared: int = Field(
        default=0, ge=0, description="Landed archives that stay: others are in them, and not all of it is settled."
    )
    restorers: tuple[Handle, ...] = Field(
        default=(), description="Restorers that learned from the patient, or kept no list of whom: retrain."
    )
    nameless: tuple[str, ...] = Field(
        default=(),
        description="Restored images, teams' cases, adapters, trainings cut off: no pseudonym says whose. Look.",
    )
    complete: bool = Field(default=False, description="False while an erasure was begun and not finished.")
