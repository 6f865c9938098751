"""Files that are there whole or not at all: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medgan.errors import Conflict, of_system
from medgan.sync import fsync_folder


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically; makes the folder. `StoreUnavailable` when the disk refuses."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")  # threads, and hosts, write here at once
    with explained():
        make_folder(path.parent)
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


def make_folder(path: Path) -> None:
    """Make `path` and its parents where they are missing, each name durable before anything is put below it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def drop_links(root: Path) -> None:
    """Delete links, pipes and devices at and below `root`: nothing written there later goes through them."""
    if root.is_symlink():
        root.unlink(missing_ok=True)
    for folder, folders, names in os.walk(root):  # follows no link
        for path in (Path(folder) / name for name in (*folders, *names)):
            with suppress(FileNotFoundError):  # another process renames what it wrote
                mode = path.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    path.unlink()


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
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold the advisory lock file `path`, which dies with its process.

    When another one holds it: `Conflict(busy)` at once, or, without `busy`, wait for it.
    """
    with explained():
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with explained():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise Conflict(str(busy)) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained() -> Iterator[None]:
    """Turn an `OSError` of the block into `StoreUnavailable`, whose message holds no path."""
    try:
        yield
    except OSError as error:
        raise of_system(error) from None
