"""Bring what a remote source has and we have not: one door for all of them, before a scan or by itself."""

from __future__ import annotations

from collections.abc import Callable

from medgan.archive import place as places
from medgan.archive import sources
from medgan.archive.landing import Landing
from medgan.archive.query import Fetched
from medgan.errors import InvalidRequest
from medgan.keys import Keyring
from medgan.records import ArchiveRef
from medgan.settings import Zones

Report = Callable[[int, int], None]


def fetch(
    ref: ArchiveRef, *, zones: Zones, keyring: Keyring, on_progress: Report | None = None, again: bool = False
) -> Fetched:
    """Visit a registered source and land what is new; a source that lies here already needs no visit.

    `again` also brings what was let go of, for another collection or profile.

    Raises:
        InvalidRequest: the source refuses us, or this site does not speak to its host.
        StoreUnavailable: it does not answer; what arrived is kept, running again brings the rest.
    """
    place = sources.place_of(ref.source, zones=zones, keyring=keyring)
    if not place.is_remote:
        return Fetched()
    landing = Landing(ref.source, zones=zones, keyring=keyring)
    if again:
        landing.forget_others(())
    if place.kind == "receiver":
        return Fetched(listed=len(landing), known=len(landing))
    if place.kind == "pacs":
        from medgan.archive import dimse

        return dimse.fetch(place, landing, report=on_progress)
    if place.kind == "dicomweb":
        from medgan.archive import dicomweb

        return dicomweb.fetch(place, landing, source=ref.source, report=on_progress)
    from medgan.archive import bucket

    return bucket.fetch(place, landing, source=ref.source, report=on_progress)


def check(ref: ArchiveRef, *, zones: Zones, keyring: Keyring) -> None:
    """Whether a registered source answers and lets us in: an echo, a search for one study, a listing."""
    place = sources.place_of(ref.source, zones=zones, keyring=keyring)
    if place.kind == "pacs":
        from medgan.archive import dimse

        dimse.check(place)
    elif place.kind == "dicomweb":
        from medgan.archive import dicomweb

        dicomweb.check(place, source=ref.source)
    elif place.kind == "bucket":
        from medgan.archive import bucket

        bucket.check(place, source=ref.source)
    elif place.kind == "receiver":
        raise InvalidRequest("a receiver is not asked, it listens: run `medgan source receive`")
    else:
        sources.preflight(place)
    places.admit(place)
