"""Writing into the identified zone: owner only, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from medgan.errors import StoreUnavailable


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` (temporary name in the same folder, fsync, rename), mode 0600."""
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        message = "the identified zone cannot be written: check its free space and permissions, then run again"
        raise StoreUnavailable(message) from None


def spool_file(spool: Path, chunks: Iterable[bytes]) -> Path:
    """Write `chunks` to the spool under their SHA-256 and give the path; a second time changes nothing."""
    temporary = spool / f".{secrets.token_hex(8)}.part"
    digest = hashlib.sha256()
    try:
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        path = spool / digest.hexdigest()
        temporary.replace(path)
    except OSError:
        message = "the identified zone cannot hold an unpacked archive: check its free space, then run again"
        raise StoreUnavailable(message) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path
