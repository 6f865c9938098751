"""Files that are there whole or not at all: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medgan.errors import Conflict, StoreUnavailable


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically; makes the folder. `StoreUnavailable` when the disk refuses."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_through(partial, data)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def write_through(path: Path, data: bytes) -> None:
    """Write `data` to `path` and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_file(path: Path) -> None:
    """Make the bytes of one file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make the names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Make every file and folder below `root` durable, innermost first."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in sorted(names):
            fsync_file(Path(folder) / name)
        fsync_folder(Path(folder))


def sweep(folder: Path) -> None:
    """Delete what a killed `write_file` left in `folder`; only for whoever holds the folder's lock."""
    for left in folder.glob(".*.partial"):
        if left.is_file():
            left.unlink()


def sweep_stale(root: Path, pattern: str, *, seconds: float) -> None:
    """Delete files below `root` that fit `pattern` and were last written more than `seconds` ago."""
    before = time.time() - seconds
    for left in root.rglob(pattern):
        with suppress(OSError):  # another reader sweeps too, or the folder is not ours to change
            if left.stat().st_mtime < before:
                left.unlink()


@contextmanager
def locked(path: Path, *, busy: str) -> Iterator[None]:
    """Hold the advisory lock file `path`; `Conflict(busy)` at once when another process holds it."""
    with explained():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(busy) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained() -> Iterator[None]:
    """Turn an `OSError` of the block into `StoreUnavailable`, whose message holds no path."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "input/output error"
        raise StoreUnavailable(
            f"a file could not be written or read ({reason}): free or repair the disk, then run again"
        ) from None
