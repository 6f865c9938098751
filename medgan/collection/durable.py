"""Files and folders that are there whole or not at all: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medgan.errors import Conflict, StoreUnavailable
from medgan.sync import fsync_folder, fsync_tree

PARTIAL = ".partial"
"""Suffix of everything unfinished; whoever holds the folder's lock may delete it."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically; creates the folder. `StoreUnavailable` when the disk refuses."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with explained_disk():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def sweep(folder: Path, name: str) -> None:
    """Delete what killed runs left of `name` in `folder`, unfinished; only for whoever holds the lock of it."""
    _delete([*folder.glob(f".{name}{PARTIAL}"), *folder.glob(f".{name}.*{PARTIAL}")])


def sweep_below(folder: Path) -> None:
    """Delete what killed runs left anywhere in `folder`, unfinished; only for whoever holds the lock of it."""
    _delete([*folder.rglob(f".*{PARTIAL}"), *folder.rglob(".*.tmp"), *folder.rglob(".tmp*")])  # earlier releases' names


def _delete(leftovers: Iterable[Path]) -> None:
    with explained_disk():
        for left in leftovers:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends well.

    A folder that already stands at `path` wins: the new one is dropped, since both are keyed by content.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with explained_disk():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            fsync_tree(partial)
            if not path.exists():
                partial.rename(path)
                fsync_folder(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def explained_disk() -> Iterator[None]:
    """Turn an `OSError` of the block into `StoreUnavailable`, whose message holds no path."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "input/output error"
        message = f"the pseudonymised store could not be written or read ({reason}): free or repair it, then run again"
        raise StoreUnavailable(message) from None


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the advisory lock file `path` (flock: gone with its process, however that dies).

    Raises:
        Conflict: somebody else holds it and `wait` is false.
        StoreUnavailable: the disk refuses, or gives no locks.
    """
    with explained_disk():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with explained_disk():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another process is writing here: wait until it is done, then run again") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` for a file that is gone when the block ends."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with explained_disk():
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a process that died with this id: in a container it is always the same
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)


def keep_only(folder: Path, names: set[str]) -> None:
    """Remove every entry of `folder` that is not in `names`, and the folder when nothing is to be kept."""
    if not folder.is_dir():
        return
    with explained_disk():
        for path in folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not names:
            folder.rmdir()


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well; a crash leaves one or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with explained_disk():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
