"""What every record shares: frozen, closed, versioned, and a digest over its canonical JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Handle = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}-[0-9a-f]{16,64}$")]
"""An opaque keyed or content-derived name such as `st-3f...`; safe to log."""


def _printable(text: str) -> str:
    if not text.isprintable():
        message = "a structure is named in printable characters"
        raise ValueError(message)
    return text


Structure = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
"""What a mask outlines, in words; clients believe no longer ones, and none that steer a terminal."""


def nothing(value: Any) -> bool:
    """Whether a field came after its record and says nothing: left out, records of old keep their bytes."""
    return not value


def canonical_json(value: Any) -> bytes:
    """One byte sequence a value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_hex(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class Record(BaseModel):
    """A border type: frozen, no unknown field, with the version of its own shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1

    def canonical(self) -> bytes:
        """Canonical JSON bytes of this record."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """Hex SHA-256 over `canonical()`."""
        return sha256_hex(self.canonical())
