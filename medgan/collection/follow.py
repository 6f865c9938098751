"""Follow a source: each look scans it, and ingests where the scan found something that the last one had not."""

from __future__ import annotations

from collections.abc import Iterator

from medgan import keys
from medgan.archive import scan
from medgan.collection import ingest
from medgan.errors import MedganError, UnusableArchive
from medgan.records import ArchiveRef
from medgan.settings import Zones


def follow(
    source: str,
    *,
    zones: Zones,
    collection: str,
    profile: str,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Iterator[str]:
    """One look a step, for ever; gives what came of it in a line, empty where nothing had changed.

    Raises whatever will not be better at the next look; what is `retryable` is said and tried again.
    """
    keyring = keys.load(zones.pseudonym_key)
    done = ""
    while True:
        try:
            found = scan.scan(ArchiveRef(source=source), zones=zones, keyring=keyring)
            if found.scan_id == done:
                yield ""
                continue
            report = ingest.ingest(
                found, zones=zones, key_handle=zones.pseudonym_key, collection=collection, profile=profile,
                workers=workers, scheduler=scheduler,
            )  # fmt: skip
        except UnusableArchive as unusable:
            yield str(unusable)  # nothing has arrived yet, or what arrived must be looked at
        except MedganError as failed:
            if not failed.retryable:
                raise
            yield f"{failed.kind}: {failed}"
        else:
            done = found.scan_id
            refused = sum(report.quarantined.values())
            yield (
                f"{report.stored:,} stored, {report.known:,} known, {refused:,} quarantined, {found.waiting:,} waiting"
            )
