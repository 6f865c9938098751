"""Where archives are unpacked: a folder of one's own, gone at the end, or with the next run when its owner was killed.

What is unpacked is identified, and the system's folder for temporary files forgets nothing by itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "medgan-unpacked-"
_LOCK = ".medgan.lock"
_EARLIER = ("medgan-deid-", "medgan-restore-", "medgan-learn-")
"""How earlier releases called theirs, which held no lock."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for what has to be unpacked; what killed runs left behind goes first. Raises `OSError`."""
    temporary = Path(tempfile.gettempdir())
    for left in (folder for prefix in (PREFIX, *_EARLIER) for folder in temporary.glob(f"{prefix}*")):
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
        try:
            if stack.enter_context(held(folder)) and folder.exists():
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                return folder
        except FileNotFoundError:
            continue
        except OSError:  # no locks here: nothing is left behind
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock `folder`; whether nobody else holds it. Raises `OSError`."""
    with ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack.callback(os.close, descriptor)
        try:
            alone = _take(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # NFS locks only what is open for writing, which a folder never is: a file in it, then.
            inner = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=descriptor)
            stack.callback(os.close, inner)
            alone = _take(inner)
        yield alone


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
