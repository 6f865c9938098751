"""Where archives are unpacked: a folder of one's own, gone at the end, or with the next run when its owner was killed.

What is unpacked is identified, and the system's folder for temporary files forgets nothing by itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "medgan-unpacked-"


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for what has to be unpacked; what killed runs left behind goes first. Raises `OSError`."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # another run may remove it first
            if left.is_dir() and not left.is_symlink() and left.stat().st_uid == os.getuid():
                with held(left) as alone:
                    if alone:
                        shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as stack:
        yield _made(stack)


def _made(stack: ExitStack) -> Path:
    """An empty folder, locked until `stack` ends and then gone."""
    while True:  # another run may take it for left behind before it is locked
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            if stack.enter_context(held(folder)) and folder.exists():
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                return folder


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock `folder`; whether nobody else holds it. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    try:
        yield alone
    finally:
        os.close(descriptor)
