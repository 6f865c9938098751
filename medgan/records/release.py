"""Records of a published version; the light client needs these and `errors` only."""

from __future__ import annotations

import base64
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from medgan.records.base import Handle, Name, Record, Sha256

VersionNumber = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$")]
"""Three numbers, each written in one way: `1.00.0` would be another entry of the same version."""


class ReleaseRequest(Record):
    """What to publish a cleared cohort as. Licence and terms are mandatory."""

    name: Name
    title: str = Field(min_length=1)
    licence: str = Field(min_length=1, description="SPDX identifier of the synthetic data's licence.")
    terms: str = Field(min_length=1, description="Terms of use, in words.")
    attribution: str = Field(default="", description="Credit that the source's licence asks for.")
    created: str = Field(description="UTC time of the night's start, ISO 8601; never the clock of the publish step.")
    night: int = Field(default=1, ge=1)
    approval: bool = Field(default=False, description="An approver must sign, whatever the policy says.")


class ReleaseStatus(StrEnum):
    """What the index may say of a version."""

    PENDING = "pending"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class Release(Record):
    """A published, immutable version."""

    name: Name
    version: VersionNumber
    manifest_sha256: Sha256
    images: int
    bytes: int
    pending: bool = Field(default=False, description="Clients refuse it until its approver has signed.")


class ManifestFile(Record):
    """One file of a version; `path` is relative, POSIX, and inside the version."""

    path: str
    size: int = Field(ge=0)
    sha256: Sha256
    pixel_sha256: Sha256 | None = Field(default=None, description="Of the decoded bytes, for shards.")


class ReleaseEvidence(Record):
    """What binds a verdict to the bytes of a version."""

    synthetic: Handle = Field(description="The synthetic cohort that was cleared.")
    model: Handle
    cohort: Handle
    pixel_sha256: Sha256 = Field(description="Of the synthetic cohort: over the SHA-256 of every 16 decoded images.")
    labels_sha256: Sha256
    quality_sha256: Sha256
    privacy_sha256: Sha256
    policy: Name
    policy_sha256: Sha256


class Manifest(Record):
    """What a version consists of: `files` sorted by path."""

    name: Name
    version: str
    created: str
    files: tuple[ManifestFile, ...]
    title: str = ""
    licence: str = ""
    attribution: str = ""
    night: int = Field(default=1, ge=1, description="The night that made this version.")
    images: int = Field(default=0, ge=0)
    class_counts: dict[str, int] = Field(default_factory=dict)
    evidence: ReleaseEvidence | None = Field(default=None, description="Always there in what medgan publishes.")
    previous: str | None = Field(default=None, description="The version before this one.")
    previous_manifest_sha256: Sha256 | None = None


class ReleaseTerms(Record):
    """What a data set is published under; the same every night. Licence and terms are mandatory."""

    title: str = Field(min_length=1, description="What the data set is called in the catalogue.")
    licence: str = Field(min_length=1, description="SPDX identifier of the synthetic data's licence.")
    terms: str = Field(min_length=1, description="Terms of use, in words.")
    attribution: str = Field(default="", description="Credit that the source's licence asks for.")
    approval: bool = Field(default=False, description="An approver must sign, whatever the policy says.")


class IndexVersion(Record):
    """What the index says of one version."""

    version: VersionNumber
    status: ReleaseStatus
    created: str
    manifest_sha256: Sha256
    images: int = Field(ge=0)
    bytes: int = Field(ge=0, description="All files of the version.")
    night: int = Field(default=1, ge=1)
    signatures: int = Field(default=1, ge=1, le=2, description="Signatures due: pipeline, and approver where two.")
    reason: str = Field(default="", description="Why it was withdrawn.")


class IndexDataset(Record):
    """One data set of the registry; `versions` in order of publication."""

    name: Name
    title: str
    licence: str
    channels: dict[str, str] = Field(description="Channel -> version: latest, and what people promoted.")
    versions: tuple[IndexVersion, ...]

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len({held.version for held in self.versions}) < len(self.versions):
            raise ValueError("a version stands twice: which entry counts cannot be told")
        return self


class Index(Record):
    """The signed table of contents of a registry. `counter` only grows; after `expires` it is not believed."""

    counter: int = Field(ge=1)
    created: str
    expires: str
    datasets: tuple[IndexDataset, ...]

    @model_validator(mode="after")
    def _once_and_dated(self) -> Self:
        if len({held.name for held in self.datasets}) < len(self.datasets):
            raise ValueError("a data set stands twice: which entry counts cannot be told")
        datetime.fromisoformat(self.created), datetime.fromisoformat(self.expires)
        return self


class EnvelopeSignature(BaseModel):
    """One signature of a DSSE envelope; `keyid` is the SHA-256 of the raw public key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyid: Sha256
    sig: str = Field(description="Base64 of the 64 bytes of an Ed25519 signature.")


class Envelope(BaseModel):
    """A DSSE envelope (github.com/secure-systems-lab/dsse, envelope.md); field names are the protocol's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    payloadType: str  # noqa: N815 - the protocol's name
    payload: str = Field(description="Base64 of the signed bytes.")
    signatures: tuple[EnvelopeSignature, ...]

    def body(self) -> bytes:
        """The payload's bytes; `ValueError` when it is not base64."""
        return base64.b64decode(self.payload, validate=True)

    def signed_bytes(self) -> bytes:
        """What is signed: DSSE's pre-authentication encoding of type and payload (protocol.md)."""
        kind, body = self.payloadType.encode(), self.body()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
