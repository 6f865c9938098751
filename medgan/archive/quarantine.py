"""The record that a refused file leaves: its digest, a reason code, a stage. Never its bytes or its place."""

from __future__ import annotations

import os
from pathlib import Path

from medgan.archive.storage import write_atomically
from medgan.records import QuarantineRecord
from medgan.settings import Zones


def folder(zones: Zones) -> Path:
    """Where quarantine records lie, in the identified zone."""
    return zones.identified / "quarantine"


def record(zones: Zones, refused: QuarantineRecord) -> None:
    """Write one record, named by the file's digest; saying it twice changes nothing."""
    path = folder(zones) / f"{refused.sha256}.json"
    content = refused.canonical()
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)


def recorded(zones: Zones) -> set[str]:
    """Digests of all files that have a record."""
    suffix = ".json"
    try:
        return {entry.name.removesuffix(suffix) for entry in os.scandir(folder(zones)) if entry.name.endswith(suffix)}
    except FileNotFoundError:
        return set()


def load(zones: Zones, sha256: str) -> QuarantineRecord | None:
    """The record of one file, or None where it was never refused."""
    path = folder(zones) / f"{sha256}.json"
    if not path.exists():
        return None
    return QuarantineRecord.model_validate_json(path.read_bytes())
