"""Where versions are published: a folder, or a prefix of an object store. Both keep the same promises.

A folder has locks and renames: a version appears by one rename, the index by another. An object store has neither,
only writes that are whole or not there and, where it is honest, conditional ones. There a version is claimed by
creating its manifest (`If-None-Match: *`): one of two publishers gets the number, the other a `Conflict`. Its other
files follow, and the signed index is replaced last, only if it is still the one that was read (`If-Match`).
No reader looks at a version that the index does not name.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medgan.client import disk, verify
from medgan.client import registry as registries
from medgan.client.index import ENVELOPE, is_number
from medgan.errors import Conflict, StoreUnavailable
from medgan.records import Manifest
from medgan.settings import Zones
from medgan.sync import fsync_folder, fsync_tree

STAGING = ".staging"
LOCK = ".lock"
BUSY = "another publication is under way in this registry: wait for it, then run again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A small file as it was read, and the store's token for exactly that content ("" in a folder)."""

    body: bytes
    token: str = ""


class Store(Protocol):
    """What publishing needs of a registry. `OSError`s become `StoreUnavailable` within `turn`.

    `desk` is a local folder for staging and the lock; for a folder registry it is the registry itself.
    """

    source: registries.Source
    desk: Path

    def turn(self) -> AbstractContextManager[None]:
        """Be the one publisher of this registry on this machine; `Conflict` at once when another is at work."""
        ...

    def read(self, path: str) -> Held | None:
        """A small file, or None."""
        ...

    def versions(self, name: str) -> list[str]:
        """Numbers for which a manifest stands, whether the index names them or not; in no order."""
        ...

    def whole(self, made: Manifest) -> bool:
        """Whether every file of a standing version is there."""
        ...

    def place(self, staging: Path, made: Manifest, previous: Manifest | None) -> None:
        """Make the finished version in `staging` stand in the registry; `Conflict` when its number is taken."""
        ...

    def replace(self, path: str, body: bytes, held: Held) -> None:
        """Replace a small file that is still as it was `held`; else `Conflict`."""
        ...

    def write_index(self, files: Mapping[str, bytes], held: Held | None) -> None:
        """Write the registry's own files; the signed envelope decides, and only replaces the `held` one."""
        ...

    def erase(self, name: str, version: str) -> None:
        """Delete the files of a version, all of them."""
        ...


def open_store(zones: Zones, *, probe: bool = True) -> Store:
    """The registry that `zones` publish to: `MEDGAN_REGISTRY_ROOT` (folder or `s3://bucket/prefix`), else a folder.

    An object store is probed before it is written to: `InvalidRequest` when it does not honour conditional writes.
    """
    address = zones.registry_address
    if "://" not in address:
        return FolderStore(Path(address))
    from medgan.release.objects import ObjectStore

    store = ObjectStore(address, desk=zones.registry)
    if probe:
        store.probe()
    return store


class FolderStore:
    """A registry in a folder of a local or network file system."""

    def __init__(self, root: Path) -> None:
        """Publish below `root`, which is made when first needed."""
        self.root = self.desk = root
        self.source: registries.Source = registries.FolderSource(root)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """See `Store`."""
        with disk.locked(self.root / LOCK, busy=BUSY), disk.explained():
            disk.sweep(self.root)
            yield

    def read(self, path: str) -> Held | None:
        """See `Store`."""
        try:
            return Held(body=(self.root / path).read_bytes())
        except FileNotFoundError:
            return None

    def versions(self, name: str) -> list[str]:
        """See `Store`."""
        return [path.name for path in (self.root / name).glob("*") if is_number(path.name) and path.is_dir()]

    def whole(self, made: Manifest) -> bool:
        """Always: a folder appears by one rename."""
        del made
        return True

    def place(self, staging: Path, made: Manifest, previous: Manifest | None) -> None:
        """One rename, after every byte and name is durable; shards that `previous` has are hard links to its files."""
        if previous is not None:
            self._share(staging, made, previous)
        for path in staging.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        fsync_tree(staging)
        target = self.root / made.name / made.version
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise Conflict("that version stands already: run again")
        staging.rename(target)
        fsync_folder(target.parent)
        fsync_folder(self.root)

    def _share(self, staging: Path, made: Manifest, previous: Manifest) -> None:
        before = self.root / previous.name / previous.version
        for path, digest in shared(made, previous).items():
            standing = before / path
            # a file may be unreadable, have no more names, or lie on another disk: the copy stays
            with suppress(OSError, StoreUnavailable):
                if verify.digest_file(standing)[1] == digest:
                    linked = staging / f".{secrets.token_hex(8)}"
                    os.link(standing, linked)
                    linked.replace(staging / path)

    def replace(self, path: str, body: bytes, held: Held) -> None:
        """See `Store`; whoever holds the lock is alone."""
        folder = (self.root / path).parent
        disk.sweep(folder)
        if self.read(path) != held:
            raise Conflict(BUSY)
        disk.write_file(self.root / path, body)

    def write_index(self, files: Mapping[str, bytes], held: Held | None) -> None:
        """See `Store`; pages first, the envelope last."""
        if ENVELOPE in files and self.read(ENVELOPE) != held:
            raise Conflict(BUSY)  # a file system whose locks do not reach the other machine
        for path in _envelope_last(files):
            disk.write_file(self.root / path, files[path])

    def erase(self, name: str, version: str) -> None:
        """See `Store`; what the disk does not let go is an error, and tried again by the next call."""
        folder = self.root / name / version
        if folder.exists():
            shutil.rmtree(folder)


def shared(made: Manifest, previous: Manifest) -> dict[str, str]:
    """Path -> SHA-256 of the shards that two versions have byte for byte."""
    held = {file.path: file.sha256 for file in previous.files if file.pixel_sha256}
    return {file.path: file.sha256 for file in made.files if held.get(file.path) == file.sha256}


def _envelope_last(files: Iterable[str]) -> list[str]:
    return sorted(files, key=lambda path: (path == ENVELOPE, path))
