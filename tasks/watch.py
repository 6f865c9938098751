"""A drop folder: when something in it has settled, Prefect is told which source has news, and no path."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prefect.events import emit_event

from medgan import keys
from medgan.archive import drop, sources
from medgan.archive.place import Place
from medgan.errors import InvalidRequest
from medgan.settings import Zones

ARRIVED = "medgan.archive.arrived"
Stamp = tuple[int, int, int]
"""Files that are finished, their bytes, and the newest change in nanoseconds."""


def arrivals(source: str, zones: Zones, *, every_seconds: float) -> Iterator[int]:
    """Yield the number of finished files whenever it is other than when it was last told; the first look tells too.

    Raises `InvalidRequest` unless `source` is a registered drop folder (`medgan source add NAME drop:/incoming`).
    """
    place = sources.place_of(source, zones=zones, keyring=keys.load(zones.pseudonym_key))
    if place.kind != "drop":
        raise InvalidRequest("this source is no drop folder: medgan source add NAME drop:/incoming")
    told: Stamp = (0, 0, 0)
    while True:
        now = _finished(place)
        if now != told:
            told = now
            yield now[0]
        time.sleep(every_seconds)


def announce(source: str) -> None:
    """Tell Prefect that a source has something new; the ingest deployment's trigger waits for it."""
    emit_event(ARRIVED, resource={"prefect.resource.id": f"medgan.source.{source}", "prefect.resource.name": source})


def _finished(place: Place) -> Stamp:
    settle = drop.settle_seconds(place)
    stats = []
    for path in place.path.rglob("*"):
        try:
            if path.is_file() and not drop.waits(path, settle):
                stats.append(path.stat())
        except FileNotFoundError:
            continue  # moved while we looked: the next look tells
    return len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
