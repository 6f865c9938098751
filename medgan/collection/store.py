"""The Icechunk repository of a collection: the only module that knows Icechunk.

On a local file system concurrent commits are not safe, so there is one committer a collection: `writer` holds its
lock from opening to commit, and a second one gets `Conflict`. A commit carries its accounting in its
metadata, so the record of a snapshot is read without touching the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import zarr

from medgan.collection import durable, layout, location
from medgan.collection.committer import Check, committer
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable
from medgan.records import CollectionSnapshot, sha256_hex
from medgan.settings import Zones

BRANCH = "main"
_COUNTS = ("instances", "series", "studies", "patients")
EMPTY_TABLE_SHA256 = sha256_hex(b"")
_REFUSES = "the collection's repository could not be read or written: check the disk, then run again"
_CLOCK = "this machine's clock is not the store's, or runs behind the last commit: set it, then run again"

# It warns of concurrent commits on every opening of a local repository; the committer's lock is the answer.
icechunk.set_logs_filter("error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One entry of the log. `written_at` is Icechunk's clock (UTC); nothing that is released depends on it."""

    snapshot: CollectionSnapshot
    message: str
    written_at: datetime
    tags: tuple[str, ...]


class Writer:
    """The one committer, inside `writer(...)`: `group` is the root to write to, `commit` makes it visible."""

    def __init__(self, collection: str, repository: icechunk.Repository, still_mine: Check) -> None:
        """Open a writable session on the head of `repository`; `still_mine` is asked before a commit."""
        self._still_mine = still_mine
        self._opened = datetime.now(UTC)
        self._collection = collection
        self._repository = repository
        self._session = repository.writable_session(BRANCH)
        self.head = _snapshot(collection, repository.lookup_snapshot(self._session.snapshot_id))
        self.group = zarr.open_group(self._session.store, mode="a", zarr_format=3)

    def commit(self, message: str, *, counts: dict[str, int], table_sha256: str) -> CollectionSnapshot:
        """Commit what was written to `group`; `message` holds counts only."""
        self._still_mine()
        metadata = {"counts": counts, "table_sha256": table_sha256}
        with _explained():
            snapshot_id = self._session.commit(message, metadata=metadata)
        return _snapshot(self._collection, self._repository.lookup_snapshot(snapshot_id))

    def collect_garbage(self) -> None:
        """Delete what a killed writer left: objects older than this writer that no snapshot holds."""
        with _explained():
            self._repository.garbage_collect(self._opened)


@contextmanager
def writer(collection: str, *, zones: Zones) -> Iterator[Writer]:
    """Hold the collection's lock and yield its writer; creates the repository when there is none.

    Leaving the block without a commit leaves the collection as it was.

    Raises:
        Conflict: another process is writing to this collection.
        StoreUnavailable: a disk or store refuses what the block writes or reads; nothing was committed.
    """
    with committer(collection, zones=zones) as still_mine, _explained():
        yield Writer(collection, _open_or_create(collection, zones), still_mine)


def head(collection: str, *, zones: Zones) -> CollectionSnapshot:
    """The newest snapshot."""
    repository = _open(collection, zones)
    return _snapshot(collection, repository.lookup_snapshot(repository.lookup_branch(BRANCH)))


def find(collection: str, state: str, *, zones: Zones) -> CollectionSnapshot:
    """The snapshot with this id or tag; `InvalidRequest` when there is none."""
    for commit in log(collection, zones=zones):
        if state in {commit.snapshot.snapshot_id, *commit.tags}:
            return commit.snapshot
    raise InvalidRequest(f"collection {collection} has no such state: `medgan collection log` lists ids and tags")


def root(snapshot: CollectionSnapshot, *, zones: Zones) -> zarr.Group:
    """The collection as it was at `snapshot`, read-only; `InvalidRequest` when that was erased or never was."""
    repository = _open(snapshot.collection, zones)
    try:
        session = repository.readonly_session(snapshot_id=snapshot.snapshot_id)
        return zarr.open_group(session.store, mode="r", zarr_format=3)
    except (icechunk.IcechunkError, FileNotFoundError):
        message = (
            f"snapshot {snapshot.snapshot_id} is not in collection {snapshot.collection}: it was erased or never was"
        )
        raise InvalidRequest(message) from None


def log(collection: str, *, zones: Zones) -> list[Commit]:
    """Every commit, newest first; the empty root is left out."""
    repository = _open(collection, zones)
    tags_of: dict[str, list[str]] = {}
    for tag in sorted(repository.list_tags()):
        tags_of.setdefault(repository.lookup_tag(tag), []).append(tag)
    return [
        Commit(
            snapshot=_snapshot(collection, info),
            message=info.message,
            written_at=info.written_at,
            tags=tuple(tags_of.get(info.id, ())),
        )
        for info in repository.ancestry(branch=BRANCH)
        if "counts" in info.metadata
    ]


def tag(snapshot: CollectionSnapshot, name: str, *, zones: Zones) -> None:
    """Name a snapshot for ever; a name is never moved or reused."""
    with committer(snapshot.collection, zones=zones, wait=True):
        try:
            _open(snapshot.collection, zones).create_tag(name, snapshot.snapshot_id)
        except icechunk.IcechunkError:
            message = f"tag {name!r} was used before, or its snapshot is gone: choose another name"
            raise InvalidRequest(message) from None


def forget_history(collection: str, *, older_than: datetime, zones: Zones) -> int:
    """Expire every snapshot written before `older_than` but the head, and delete what only they held.

    Tags of expired snapshots go with them. Returns the number of snapshots expired. Takes the committer's lock:
    garbage collection never runs beside a writer. `StoreUnavailable` where the clock runs behind the head: states that
    seem to lie in the future would outlive an erasure.
    """
    with committer(collection, zones=zones), _explained():
        repository = _open(collection, zones)
        if next(iter(repository.ancestry(branch=BRANCH))).written_at > datetime.now(UTC):
            raise StoreUnavailable(_CLOCK)
        before = len(list(repository.ancestry(branch=BRANCH)))
        repository.expire_snapshots(older_than, delete_expired_tags=True)
        repository.garbage_collect(older_than)
        return before - len(list(repository.ancestry(branch=BRANCH)))


def _open(collection: str, zones: Zones) -> icechunk.Repository:
    path, remote = layout.repository(collection, zones=zones), location.bucket()
    with _explained():
        if (remote is None and not path.is_dir()) or not icechunk.Repository.exists(_storage(path, remote)):
            _refuse_headless(path, remote)
            raise InvalidRequest(f"there is no collection {collection}: ingest an archive into it first")
        return icechunk.Repository.open(_storage(path, remote), config=_config())


def _open_or_create(collection: str, zones: Zones) -> icechunk.Repository:
    """The repository for a writer; the store is probed first."""
    path, remote = layout.repository(collection, zones=zones), location.bucket()
    if remote is not None:
        location.probe_bucket(remote)
        with _explained():
            if not icechunk.Repository.exists(_storage(path, remote)):
                _refuse_headless(path, remote)
            return icechunk.Repository.open_or_create(_storage(path, remote), config=_config())
    with durable.explained_disk():
        path.parent.mkdir(parents=True, exist_ok=True)
        location.probe_folder(path.parent)
    with _explained():
        if path.is_dir() and icechunk.Repository.exists(_storage(path, None)):
            return icechunk.Repository.open(_storage(path, None), config=_config())
        _refuse_headless(path, None)
        shutil.rmtree(path, ignore_errors=True)  # killed while it was created: nothing in it was ever committed
        return icechunk.Repository.create(_storage(path, None), config=_config())


def _refuse_headless(path: Path, remote: location.Bucket | None) -> None:
    """`IntegrityError` where a place without a head holds what somebody committed: it is not begun anew over that."""
    kinds = ("chunks", "manifests")
    if remote is None:
        headless = any((path / kind).is_dir() for kind in kinds)
    else:  # asked again, because another machine may have created it meanwhile
        held = location.holds(remote, *(f"{path.name}/{kind}" for kind in kinds))
        headless = held and not icechunk.Repository.exists(_storage(path, remote))
    if headless:
        raise IntegrityError(
            "this collection has lost its head (refs/), and what it held still lies there: restore its folder from a "
            "copy; nothing was deleted"
        )


def _storage(path: Path, remote: location.Bucket | None) -> icechunk.Storage:
    if remote is None:
        return icechunk.local_filesystem_storage(str(path))
    return icechunk.s3_storage(
        bucket=remote.name,
        prefix=f"{remote.prefix}/{path.name}".lstrip("/"),
        region=remote.region or None,
        endpoint_url=remote.endpoint or None,
        allow_http=remote.endpoint.startswith("http:"),
        force_path_style=bool(remote.endpoint),
        access_key_id=remote.user or None,
        secret_access_key=remote.password or None,
        from_env=not remote.user,
    )


def _config() -> icechunk.RepositoryConfig:
    return icechunk.RepositoryConfig.default()


def _snapshot(collection: str, info: icechunk.SnapshotInfo) -> CollectionSnapshot:
    counts: dict[str, Any] = info.metadata.get("counts", dict.fromkeys(_COUNTS, 0))
    digest = info.metadata.get("table_sha256", EMPTY_TABLE_SHA256)
    return CollectionSnapshot(
        collection=collection,
        snapshot_id=info.id,
        table_sha256=digest,
        **{name: int(counts[name]) for name in _COUNTS},
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn an Icechunk error into `StoreUnavailable`: its own text may hold a path."""
    try:
        yield
    except icechunk.ConflictError:
        raise Conflict("another process committed to the collection meanwhile: nothing was lost, run again") from None
    except icechunk.IcechunkError as error:
        # Icechunk refuses a commit that is older than the one before it
        raise StoreUnavailable(_CLOCK if "snapshot timestamp" in str(error) else _REFUSES) from None
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise StoreUnavailable(_REFUSES) from None  # a panic of Icechunk, where it cannot make its folder
