"""Waiting until the disk has it: bytes of a file, and names in a folder, which a power cut may take apart."""

from __future__ import annotations

import os
from pathlib import Path


def fsync_file(path: Path) -> None:
    """Make the bytes of one file durable. Raises `OSError` where the disk refuses."""
    _fsync(path, os.O_RDONLY)


def fsync_folder(path: Path) -> None:
    """Make the names in `path` durable: what was created or renamed there. Raises `OSError` as `fsync_file`."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def fsync_tree(root: Path) -> None:
    """Make every file and folder below `root` durable, innermost first. Raises `OSError` as `fsync_file`."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in sorted(names):
            fsync_file(Path(folder) / name)
        fsync_folder(Path(folder))


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
