"""What Prometheus asks: numbers of the ledger, the stores and the registry, read anew at each scrape.

Nothing is counted in memory, so a restarted exporter forgets nothing. Labels are names of data sets, collections,
outcomes and zones: no handle, no path.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector
from pydantic import ValidationError

from medgan import night
from medgan.client.index import moment
from medgan.collection import store
from medgan.errors import IntegrityError, MedganError
from medgan.records import Index
from medgan.release import stores
from medgan.settings import Zones

ROOTS = ("identified", "pseudonymised", "synthetic", "published")


class Site(Collector):
    """One workspace."""

    def __init__(self, zones: Zones) -> None:
        """Read below these roots; one that is not mounted here is left out."""
        self.zones = zones

    def collect(self) -> Iterator[Gauge]:
        """Everything, as it is now."""
        yield from self._nights()
        yield from self._collections()
        yield from self._releases()
        yield from self._disks()

    def _nights(self) -> Iterator[Gauge]:
        nights = Gauge("medgan_nights", "Nights of the ledger, by how they ended.", labels=["dataset", "outcome"])
        last = Gauge("medgan_night_started_timestamp_seconds", "When the last night began.", labels=["dataset"])
        good = Gauge(
            "medgan_night_published_timestamp_seconds", "When the last night that published began.", labels=["dataset"]
        )
        for dataset in dataset_names(self.zones):
            entries = night.history(dataset, zones=self.zones)
            for outcome, count in Counter(entry.outcome or "open" for entry in entries).items():
                nights.add_metric([dataset, outcome], count)
            began = [(moment(entry.night.started).timestamp(), entry.outcome) for entry in entries]
            if began:
                last.add_metric([dataset], began[-1][0])
            if published := [when for when, outcome in began if outcome == "published"]:
                good.add_metric([dataset], published[-1])
        yield from (nights, last, good)

    def _collections(self) -> Iterator[Gauge]:
        held = Gauge("medgan_collection", "What a collection holds at its head.", labels=["collection", "of"])
        broken = Gauge("medgan_collection_unreadable", "1 where a collection does not open.", labels=["collection"])
        for name in collection_names(self.zones):
            try:
                head = store.head(name, zones=self.zones)
            except MedganError:
                broken.add_metric([name], 1)
                continue
            broken.add_metric([name], 0)
            for what in ("instances", "series", "studies", "patients"):
                held.add_metric([name, what], getattr(head, what))
        yield from (held, broken)

    def _releases(self) -> Iterator[Gauge]:
        versions = Gauge("medgan_release_versions", "Versions, by status.", labels=["dataset", "status"])
        images = Gauge("medgan_release_images", "Images of the newest version.", labels=["dataset"])
        size = Gauge("medgan_release_bytes", "Bytes of the newest version.", labels=["dataset"])
        expires = Gauge("medgan_index_expires_timestamp_seconds", "After this, clients do not believe the index.")
        broken = Gauge("medgan_registry_unreadable", "1 where the registry's index cannot be read.")
        try:
            index = published_index(self.zones)
        except (MedganError, OSError):
            index = None
            broken.add_metric([], 1)
        else:
            broken.add_metric([], 0)
        if index is not None:
            expires.add_metric([], moment(index.expires).timestamp())
            for dataset in index.datasets:
                for status, count in Counter(version.status.value for version in dataset.versions).items():
                    versions.add_metric([dataset.name, status], count)
                images.add_metric([dataset.name], dataset.versions[-1].images)
                size.add_metric([dataset.name], dataset.versions[-1].bytes)
        yield from (broken, versions, images, size, expires)

    def _disks(self) -> Iterator[Gauge]:
        free = Gauge("medgan_zone_free_bytes", "Free bytes below a zone's root.", labels=["zone"])
        for zone in ROOTS:
            root: Path = getattr(self.zones, zone)
            if root.is_dir():
                free.add_metric([zone], shutil.disk_usage(root).free)
        yield free


def serve(zones: Zones, *, host: str, port: int) -> None:
    """Answer on `host:port` for ever."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Site(zones))
    _, thread = start_http_server(port, addr=host, registry=registry)
    thread.join()


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() else []


def dataset_names(zones: Zones) -> list[str]:
    """Data sets that had a night."""
    return _names(zones.pseudonymised / "nights")


def collection_names(zones: Zones) -> list[str]:
    """Collections that stand below the pseudonymised root."""
    return [name for name in _names(zones.pseudonymised / "collection") if "." not in name]


def published_index(zones: Zones) -> Index | None:
    """The registry's index, unverified (clients verify for themselves); None where nothing is published.

    Raises:
        StoreUnavailable: the object store does not answer, or refuses us.
        IntegrityError: what stands there is no index.
    """
    held = stores.open_store(zones, probe=False).read("index.json")
    try:
        return None if held is None else Index.model_validate_json(held.body)
    except ValidationError:
        raise IntegrityError("the index of the registry cannot be read: restore published/ from the backup") from None
