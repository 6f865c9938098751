"""A drop folder: what has arrived whole is registered as a source, and Prefect is told. No path leaves this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from prefect.events import emit_event

from medgan import keys
from medgan.archive import sources
from medgan.errors import UnusableArchive
from medgan.records import ArchiveRef
from medgan.settings import Zones

ARRIVED = "medgan.archive.arrived"
Stamp = tuple[int, int, int]
"""Files, bytes, and newest change in nanoseconds: what tells that an entry still grows."""


def arrivals(folder: Path, zones: Zones, *, quiet_seconds: float, every_seconds: float) -> Iterator[ArchiveRef]:
    """Yield each entry of `folder` that has not changed for `quiet_seconds`, and again whenever it has changed since.

    An entry is one archive: a folder, a zip or a tar. Names that start with a dot are still being written.
    One that holds nothing to read is waited for: it may be the beginning of an upload.
    """
    seen: dict[Path, tuple[Stamp, float]] = {}
    told: dict[Path, Stamp] = {}
    while True:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            stamp, now = _stamp(entry), time.monotonic()
            before, since = seen.get(entry, (None, now))
            seen[entry] = (stamp, since if before == stamp else now)
            if told.get(entry) != stamp and now - seen[entry][1] >= quiet_seconds:
                told[entry] = stamp
                yield from _registered(entry, zones)
        time.sleep(every_seconds)


def announce(archive: ArchiveRef) -> None:
    """Tell Prefect that a source has something new; the ingest deployment's trigger waits for it."""
    emit_event(
        ARRIVED,
        resource={"prefect.resource.id": f"medgan.source.{archive.source}", "prefect.resource.name": archive.source},
    )


def _registered(entry: Path, zones: Zones) -> Iterator[ArchiveRef]:
    try:
        sources.preflight(entry)
    except UnusableArchive:
        return
    yield sources.register(entry, zones=zones, keyring=keys.load(zones.pseudonym_key))


def _stamp(entry: Path) -> Stamp:
    files = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
    stats = []
    for path in files:
        try:
            stats.append(path.stat())
        except FileNotFoundError:
            continue  # moved while we looked: the next look tells
    return len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
