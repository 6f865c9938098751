"""A drop folder: when something in it has settled, Prefect is told which source has news, and no path."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import httpx

from medgan import keys
from medgan.archive import drop, sources
from medgan.archive.place import Place
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.settings import Zones
from tasks.events import REFUSALS, Server

ARRIVED = "medgan.archive.arrived"
_PAUSE_SECONDS = 5.0
_PATIENCE_SECONDS = 30.0
Stamp = tuple[int, int, int]
"""Files that are finished, their bytes, and the newest change in nanoseconds."""


def arrivals(source: str, zones: Zones, *, every_seconds: float) -> Iterator[int]:
    """Yield the number of finished files whenever they are others than those last told of; the first look tells too.

    An empty folder is no news: files go when they were taken in, and all at once when the folder is not mounted.

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
            if told[0]:
                yield told[0]
        time.sleep(every_seconds)


def announce(source: str) -> None:
    """Tell Prefect that a source has something new, again and again until its server has acted on it.

    The ingest deployment's trigger waits for it; one told twice finds everything taken in. Raises `StoreUnavailable`
    when the server refuses us.
    """
    server, log = Server.of_the_environment(), logging.getLogger("medgan.watch")
    while why := _unheard(server, source):
        log.warning("the server %s the news of %s: again", why, source)
        time.sleep(_PAUSE_SECONDS)


def _unheard(server: Server, source: str) -> str:
    """Tell it once; what the server did instead of acting on it, or nothing."""
    try:
        event = server.tell(ARRIVED, resource=f"medgan.source.{source}", name=source)
        return "" if server.acts_on(event, within_seconds=_PATIENCE_SECONDS) else "has done nothing about"
    except httpx.HTTPError as error:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        if status in REFUSALS:
            message = f"the server answers {status}: set PREFECT_API_AUTH_STRING"
            raise StoreUnavailable(message) from None
        return f"has not taken ({status or type(error).__name__})"


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
