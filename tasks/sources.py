"""Registering a source before a flow starts, so that no path ever becomes a parameter.

This module imports no Prefect: a source that cannot be used is refused before anything is written.
"""

from __future__ import annotations

from pathlib import Path

from medgan import keys
from medgan.archive import sources
from medgan.personal import cases as local_cases
from medgan.records import ArchiveRef, LocalCases
from medgan.settings import Zones


def register(path: Path, workspace: Path, name: str | None = None) -> ArchiveRef:
    """Check that `path` can be ingested, seal its place under `workspace`, and give its handle.

    The name of a source that `medgan source add` registered (a PACS, a store, a drop folder) does as well.
    Raises `UnusableArchive` or `UnusableKey` before anything is written.
    """
    zones = Zones.under(workspace)
    if not path.exists() and str(path) in sources.registered(zones):
        return ArchiveRef(source=str(path))
    sources.preflight(path)
    return sources.register(path, zones=zones, keyring=keys.load(zones.pseudonym_key), name=name)


def register_cases(path: Path, workspace: Path) -> LocalCases:
    """Take a team's .npz into the pseudonymised zone and give its handle; `InvalidRequest` when it is no such file."""
    return local_cases.register(path, zones=Zones.under(workspace))
