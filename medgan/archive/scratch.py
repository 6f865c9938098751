"""Where archives are unpacked: a folder of one's own, gone at the end, or with the next run when its owner was killed.

What is unpacked is identified, and the system's folder for temporary files forgets nothing by itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

PREFIX = ".medgan-unpacked-"
_LOCK = ".medgan.lock"
MARK = ".medgan-scratch"
"""Stands in every folder that was made here, and goes last: nothing else is ever taken for one."""
_EARLIER = re.compile(r"medgan-(deid|restore|learn|unpacked)-[a-z0-9_]{8}")
"""How earlier releases called theirs, which held no lock or no mark."""
_UNPACKED = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{16}\.part|\.medgan\.lock")
"""What archives unpack to (`storage.spool_file`): all that stands in one of those, and in no folder of people."""
_A_DAY_S = 24 * 3600


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for what has to be unpacked; what killed runs left behind goes first. Raises `OSError`."""
    for left in Path(tempfile.gettempdir()).iterdir():
        with suppress(FileNotFoundError):  # another run may remove it first
            if left.name.startswith(PREFIX) or _EARLIER.fullmatch(left.name):
                _clear(left)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        stack.callback(_remove, folder)
        if not stack.enter_context(held(folder)):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        (folder / MARK).touch()  # under the lock: from here on another run may take it for left behind
        yield folder


def _clear(left: Path) -> None:
    """Delete `left` where we made it and nobody holds it."""
    about = left.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != stat.S_IRWXU:
        return
    with held(left) if _ours(left, about.st_mtime) else nullcontext(False) as alone:
        if alone:
            _remove(left)


def _ours(folder: Path, changed_s: float) -> bool:
    if folder.name.startswith(PREFIX):
        return (folder / MARK).is_file()
    return time.time() - changed_s > _A_DAY_S and all(_UNPACKED.fullmatch(path.name) for path in folder.iterdir())


def _remove(folder: Path) -> None:
    """Delete `folder`, its mark last: cut off in between, the next run goes on."""
    for path in folder.glob("*"):
        if path.name != MARK:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(
                missing_ok=True
            )
    shutil.rmtree(folder, ignore_errors=True)


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
