"""Why an instance may be refused, and the record a refusal leaves."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from medgan.records.base import Handle, Record, Sha256


class QuarantineReason(StrEnum):
    """Reason codes; free of identifiers, stable across versions."""

    NOT_DICOM = "NOT_DICOM"
    TRUNCATED = "TRUNCATED"
    BAD_LENGTH = "BAD_LENGTH"
    TOO_DEEP = "TOO_DEEP"
    TOO_LARGE = "TOO_LARGE"
    TOO_MANY_ELEMENTS = "TOO_MANY_ELEMENTS"
    BOMB = "BOMB"
    CORRUPT_HEADER = "CORRUPT_HEADER"
    CORRUPT_PIXELS = "CORRUPT_PIXELS"
    NO_PIXELS = "NO_PIXELS"
    UNSUPPORTED = "UNSUPPORTED"
    BAD_UID = "BAD_UID"
    NO_PATIENT = "NO_PATIENT"
    CONFLICT = "CONFLICT"
    RESIDUE = "RESIDUE"
    BURNED_IN = "BURNED_IN"
    FACE = "FACE"
    NOT_REGULAR_FILE = "NOT_REGULAR_FILE"
    CHANGED_WHILE_READ = "CHANGED_WHILE_READ"
    TIMEOUT = "TIMEOUT"
    BAD_ARCHIVE = "BAD_ARCHIVE"
    UNREADABLE_FOLDER = "UNREADABLE_FOLDER"  # a whole folder: nobody knows how many files
    UNFAMILIAR = "UNFAMILIAR"  # restoration: too far from what the model has learned from
    OTHER_MODALITY = "OTHER_MODALITY"  # restoration: by its header of another modality than the model learned from
    OTHER_BODY_PART = "OTHER_BODY_PART"  # restoration: by its header of another part of the body


class QuarantineRecord(Record):
    """One refused file. `sha256` names its bytes; where it lies is sealed, never written here."""

    sha256: Sha256
    reason: QuarantineReason
    stage: str
    study: Handle | None = None
    judged_by: Sha256 | None = Field(
        default=None, description="Digest of the rules that refused it: with others it is tried again."
    )
