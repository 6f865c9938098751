"""Where what is not here yet arrives: a folder of whole files, each named by keyed handle and content.

No name, UID or path of the sender becomes a file name. A file is there when its bytes are durable, so whatever was
acknowledged survives a kill; the same bytes again are the same file. A half-written one lies beside, locked by its
writer, and goes with it. A file that is let go of leaves its handle in a ledger, so that it is not brought again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from medgan.archive.storage import write_atomically
from medgan.errors import StoreUnavailable
from medgan.keys import Keyring
from medgan.settings import Zones
from medgan.sync import fsync_folder

_NAMES: Final = "landing-names"
_LANDED: Final = re.compile(r"([a-z]{2}-[0-9a-f]{32})\.[0-9a-f]{64}")
_HANDLE_BYTES: Final = 35


def folder(source: str, zones: Zones) -> Path:
    """The folder that a scan of this source reads."""
    return zones.identified / "landing" / source / "files"


class Landing:
    """The landing of one source. Safe for several threads and processes at a time."""

    def __init__(self, source: str, *, zones: Zones, keyring: Keyring) -> None:
        """Open it, making it where there is none, and clear away what writers left that are gone."""
        self.files = folder(source, zones)
        self._partial = self.files.parent / "partial"
        self._names = _names_file(source, zones)
        self._ledger = _ledger(source, zones)
        self._keyring = keyring
        try:
            for path in (self.files, self._partial):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            _clear(self._partial)
            self._here = {found[1] for name in self._listed() if (found := _LANDED.fullmatch(name))}
            self._gone = _handles(self._ledger)
        except OSError:
            raise _refused() from None

    def handle(self, *names: str) -> str:
        """The keyed handle that something with these names arrives under."""
        return self._keyring.handle("in", "landed", *names)

    def holds(self, handle: str) -> bool:
        """Whether something has arrived under this handle, be it that it was let go of since."""
        return handle in self._here or handle in self._gone

    def __len__(self) -> int:
        """How many handles have arrived."""
        return len(self._here)

    def add(self, handle: str, chunks: Iterable[bytes]) -> bool:
        """Make one file durable; whether it is new. `StoreUnavailable` where the disk refuses: nothing was kept."""
        temporary = self._partial / secrets.token_hex(16)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                digest = hashlib.sha256()
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                return self._settle(temporary, handle, digest.hexdigest())
        except OSError:
            raise _refused() from None
        finally:
            temporary.unlink(missing_ok=True)

    def _settle(self, temporary: Path, handle: str, sha256: str) -> bool:
        target = self._path(f"{handle}.{sha256}")
        new = not target.exists()
        if new:
            target.parent.mkdir(exist_ok=True, mode=0o700)
            temporary.replace(target)
            for path in (target.parent, self.files):
                fsync_folder(path)
        self._here.add(handle)
        return new

    def keep_only(self, handles: Collection[str]) -> None:
        """Let go of everything that arrived under another handle: the sender has it no more, or has it otherwise."""
        try:
            for name in list(self._listed()):
                handle = name.partition(".")[0]
                if handle not in handles:
                    self._path(name).unlink(missing_ok=True)
                    self._here.discard(handle)
        except OSError:
            raise _refused() from None
        self.forget_others(handles)

    def let_go(self, names: Collection[str], *, remember: bool) -> None:
        """Delete files by name. `remember` that they arrived, where the sender would be asked for them again.

        Killed in the middle, some files are still here and may be let go of again.
        """
        handles = {name.partition(".")[0] for name in names}
        try:
            with self._alone(), self._ledger.open("ab") as file:
                file.write(b"".join(b"\n" + handle.encode() for handle in handles if remember))
                file.flush()
                os.fsync(file.fileno())
            for name in names:
                self._path(name).unlink(missing_ok=True)
            for shelf in {self._path(name).parent for name in names}:
                if shelf.exists():  # somebody may have cleared the landing by hand
                    fsync_folder(shelf)
            self._forget_names(handles)
        except OSError:
            raise _refused() from None
        self._here.difference_update(handles)
        self._gone.update(handles if remember else ())

    def forget_others(self, handles: Collection[str]) -> None:
        """Let the ledger of what was let go of hold these handles only: the sender lists no other."""
        try:
            with self._alone():
                gone = _handles(self._ledger)
                self._gone = gone.intersection(handles)
                if self._gone != gone:
                    write_atomically(self._ledger, b"".join(b"\n" + one.encode() for one in sorted(self._gone)))
        except OSError:
            raise _refused() from None

    def name(self, names: Mapping[str, str]) -> None:
        """Remember what the sender calls the files under these handles: a table may speak of them so."""
        with self._alone():
            known = _names_of(self._names, self._keyring)
            if any(known.get(handle) != name for handle, name in names.items()):
                self._keep_names(known | dict(names))

    def _forget_names(self, handles: Collection[str]) -> None:
        with self._alone():
            known = _names_of(self._names, self._keyring)
            left = {handle: name for handle, name in known.items() if handle not in handles}
            if left != known:
                self._keep_names(left)

    def _keep_names(self, names: Mapping[str, str]) -> None:
        write_atomically(self._names, self._keyring.seal(_NAMES, json.dumps(names).encode()))

    def _path(self, name: str) -> Path:
        return self.files / name[3:5] / name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the ledger meanwhile: a visit and an ingest of one source may run side by side."""
        with self._ledger.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _listed(self) -> Iterator[str]:
        for shelf in os.scandir(self.files):
            if shelf.is_dir(follow_symlinks=False):
                yield from (entry.name for entry in os.scandir(shelf.path))


def names(source: str, *, zones: Zones, keyring: Keyring) -> dict[str, str]:
    """Handle -> what the sender calls the file; empty where senders have no names."""
    return _names_of(_names_file(source, zones), keyring)


def _names_of(sealed: Path, keyring: Keyring) -> dict[str, str]:
    if not sealed.exists():
        return {}
    found: dict[str, str] = json.loads(keyring.unseal(_NAMES, sealed.read_bytes()))
    return found


def _names_file(source: str, zones: Zones) -> Path:
    return folder(source, zones).parent / "names.sealed"


def was_emptied(source: str, zones: Zones) -> bool:
    """Whether files of this source were let go of: then it is no wonder that none is here."""
    return _ledger(source, zones).exists()


def _ledger(source: str, zones: Zones) -> Path:
    return folder(source, zones).parent / "let-go"


def _handles(ledger: Path) -> set[str]:
    """Handles of a ledger, one a line; a line that a kill cut short is none."""
    lines = ledger.read_text("ascii").split("\n") if ledger.exists() else []
    return {line for line in lines if len(line) == _HANDLE_BYTES}


def handle_of(path: Path) -> str:
    """The handle that a file of a landing arrived under."""
    return path.name.partition(".")[0]


def _clear(partial: Path) -> None:
    """Remove half-written files whose writer is gone: a lock dies with its process, however that died."""
    for path in partial.iterdir():
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            continue


def _refused() -> StoreUnavailable:
    return StoreUnavailable("the identified zone cannot hold what arrives: check its free space and permissions")
