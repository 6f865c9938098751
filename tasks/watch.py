"""A drop folder: when something in it has settled, Prefect is told which source has news, and no path."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource

from medgan import keys
from medgan.archive import drop, sources
from medgan.archive.place import Place
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.settings import Zones

ARRIVED = "medgan.archive.arrived"
_PAUSE_SECONDS = 5.0
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
    """Tell Prefect that a source has something new, again and again until its server has taken the event.

    The ingest deployment's trigger waits for it. Raises `StoreUnavailable` when the server refuses us.
    """
    resource = Resource({"prefect.resource.id": f"medgan.source.{source}", "prefect.resource.name": source})
    event = Event(event=ARRIVED, resource=resource).model_dump(mode="json")
    log, is_told = logging.getLogger("medgan.watch"), False
    while not is_told:
        try:
            with get_client(sync_client=True) as client:
                client.request("POST", "/events", json=[event])
            is_told = True
        except (httpx.HTTPError, RuntimeError) as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
            if status in {401, 403}:
                message = f"the server answers {status}: set PREFECT_API_AUTH_STRING"
                raise StoreUnavailable(message) from None
            log.warning("the server has not taken the news of %s (%s): again", source, status or type(error).__name__)
            time.sleep(_PAUSE_SECONDS)


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
