"""Records of a published version; the light client needs these and `errors` only."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from medgan.records.base import Name, Record, Sha256


class ReleaseRequest(Record):
    """What to publish a cleared cohort as. Licence and terms are mandatory."""

    name: Name
    title: str = Field(min_length=1)
    licence: str = Field(min_length=1, description="SPDX identifier of the synthetic data's licence.")
    terms: str = Field(min_length=1, description="Terms of use, in words.")
    attribution: str = Field(default="", description="Credit that the source's licence asks for.")
    created: str = Field(description="UTC time of the night's start, ISO 8601; never the clock of the publish step.")
    night: int = Field(default=1, ge=1)


class ReleaseStatus(StrEnum):
    """What the index may say of a version."""

    ACTIVE = "active"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class Release(Record):
    """A published, immutable version."""

    name: Name
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    manifest_sha256: Sha256
    images: int
    bytes: int


class ManifestFile(Record):
    """One file of a version; `path` is relative, POSIX, and inside the version."""

    path: str
    size: int = Field(ge=0)
    sha256: Sha256
    pixel_sha256: Sha256 | None = Field(default=None, description="Of the decoded bytes, for shards.")


class Manifest(Record):
    """What a version consists of: `files` sorted by path."""

    name: Name
    version: str
    created: str
    files: tuple[ManifestFile, ...]


class ReleaseTerms(Record):
    """What a data set is published under; the same every night. Licence and terms are mandatory."""

    title: str = Field(min_length=1, description="What the data set is called in the catalogue.")
    licence: str = Field(min_length=1, description="SPDX identifier of the synthetic data's licence.")
    terms: str = Field(min_length=1, description="Terms of use, in words.")
    attribution: str = Field(default="", description="Credit that the source's licence asks for.")
