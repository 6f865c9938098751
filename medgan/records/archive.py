"""Records about the identified source. They carry handles and counts, never a path or a UID."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Handle, Name, Record


class ArchiveRef(Record):
    """A registered source, by name; where it lies is sealed in the identified zone."""

    source: Name = Field(description="Name of a registered source (`medgan source add NAME PATH`).")


class StudyKey(Record):
    """The keyed handle of one study of the archive."""

    key: Handle


class ScanReport(Record):
    """What a scan found. The study list itself is sealed in the identified zone under `scan_id`."""

    source: Name
    scan_id: Handle
    files: int = Field(ge=0, description="Files looked at, archives unpacked.")
    instances: int = Field(ge=0, description="Readable imaging instances.")
    studies: int = Field(ge=0)
    series: int = Field(ge=0)
    patients: int = Field(ge=0)
    label_rows: int = Field(ge=0, description="Rows of label tables found in the archive.")
    bytes: int = Field(ge=0)
    rejected: dict[str, int] = Field(default_factory=dict, description="Files refused, by reason code.")
