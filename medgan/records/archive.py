"""Records about the identified source. They carry handles and counts, never a path or a UID."""

from __future__ import annotations

from pydantic import Field, model_validator

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
    duplicates: int = Field(
        default=0, ge=0, description="Files that repeat another one, byte for byte or packed otherwise."
    )
    tables: int = Field(default=0, ge=0, description="Label tables, structure sets, DICOMDIRs: read, no instance.")
    ambiguous_patients: int = Field(default=0, ge=0, description="Patient ids that several names go with.")
    waiting: int = Field(
        default=0,
        ge=0,
        description="Still being copied, listed by a PACS and not delivered, or a picture whose table may lie in a "
        "folder that cannot be listed: left for the next scan.",
    )

    @model_validator(mode="after")
    def _every_file_is_accounted_for(self) -> ScanReport:
        accounted = self.instances + self.duplicates + self.tables + sum(self.rejected.values())
        if accounted != self.files:
            message = f"{self.files} files were looked at and {accounted} accounted for"
            raise ValueError(message)
        return self
