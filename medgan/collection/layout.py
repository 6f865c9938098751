"""Where a collection lies, and the names inside it."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from medgan.errors import InvalidRequest
from medgan.records import Name
from medgan.settings import Zones

PACKS = "packs"
IMAGES = "images"
TABLE = "table"
LEARNED_FROM = "patients.json"
"""Beside what was learned from a collection: the pseudonyms of those it was learned from."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def repository(collection: str, *, zones: Zones) -> Path:
    """Folder of the Icechunk repository."""
    return _root(zones) / _checked(collection)


def staging(collection: str, *, zones: Zones) -> Path:
    """Folder of decoded studies that no commit holds yet."""
    return _root(zones) / f"{_checked(collection)}.staging"


def audit(collection: str, *, zones: Zones) -> Path:
    """Folder of the chained log of what was done to each instance."""
    return _root(zones) / f"{_checked(collection)}.audit"


def pace(collection: str, *, zones: Zones) -> Path:
    """File that says how fast the last ingests were."""
    return _root(zones) / f"{_checked(collection)}.pace.json"


def lock(collection: str, *, zones: Zones) -> Path:
    """Lock file of the one committer."""
    return _root(zones) / f".{_checked(collection)}.lock"


def kind(shape: tuple[int, ...], dtype: str) -> str:
    """Name of the pack for frames of one shape and integer type, for example `512x512-int16`."""
    return "x".join(map(str, shape)) + f"-{dtype}"


def part(number: int) -> str:
    """Name of the table part that the `number`-th commit added, from 0."""
    return f"part-{number:05d}"


def _root(zones: Zones) -> Path:
    return zones.pseudonymised / "collection"


def _checked(collection: str) -> str:
    try:
        return _NAME.validate_python(collection)
    except ValidationError:
        raise InvalidRequest("a collection is named with a-z, 0-9 and dashes, at most 63 of them") from None
