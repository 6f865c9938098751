"""Key custody: one secret, a sub-key a purpose, and nothing published that predicts anything else.

The key is a file of mode 0600 that holds 64 hex digits, named by a handle (`file:/path` or
`env:NAME`, the latter filled by a Prefect secret). Only handles cross a task border.
Sub-keys are HMAC-SHA-256(secret, purpose) (NIST SP 800-108 in counter-free form, one block):
knowing every patient pseudonym tells nothing about date shifts, UIDs or study handles.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medgan.errors import StoreUnavailable, UnusableKey
from medgan.sync import fsync_folder

SECRET_BYTES = 32
_NONCE_BYTES = 12
_MOST_BYTES = 4096
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Derives everything secret; its `repr` shows nothing."""

    secret: bytes = field(repr=False)

    def subkey(self, purpose: str) -> bytes:
        """32 bytes for one purpose, for example `patient-id`."""
        return hmac.digest(self.secret, b"medgan/1/" + purpose.encode(), hashlib.sha256)

    def mac(self, purpose: str, *parts: str) -> bytes:
        """32 bytes naming `parts` under `purpose`; length-prefixed, so `("a","bc") != ("ab","c")`."""
        message = b"".join(
            len(raw).to_bytes(8, "big") + raw for raw in (part.encode("utf-8", "surrogatepass") for part in parts)
        )
        return hmac.digest(self.subkey(purpose), message, hashlib.sha256)

    def handle(self, prefix: str, purpose: str, *parts: str) -> str:
        """An opaque name such as `st-3f...` (32 hex digits of the MAC)."""
        return f"{prefix}-{self.mac(purpose, *parts).hex()[:32]}"

    def seal(self, purpose: str, plain: bytes) -> bytes:
        """AES-256-GCM under the sub-key of `purpose`: what must be found again but not read."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self.subkey("seal/" + purpose)).encrypt(nonce, plain, purpose.encode())

    def unseal(self, purpose: str, sealed: bytes) -> bytes:
        """Inverse of `seal`; `UnusableKey` when the key or the bytes are not the right ones."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self.subkey("seal/" + purpose)).decrypt(nonce, body, purpose.encode())
        except InvalidTag:
            message = "a sealed record does not open with this key: use the key it was written with"
            raise UnusableKey(message) from None


def load(handle: str) -> Keyring:
    """Open the key behind `handle`; refuses a missing, empty, malformed or shared one."""
    scheme, _, where = handle.partition(":")
    if scheme == "env":
        return _parse(os.environ.get(where, ""))
    if scheme == "file":
        return _parse(_read_private(Path(where)))
    message = "a key handle starts with file: or env:"
    raise UnusableKey(message)


def create(path: Path) -> None:
    """Write a fresh key to `path`, mode 0600, in a folder of mode 0700; whole or not at all, and never over another.

    Raises `UnusableKey` where a key stands already, `StoreUnavailable` where the disk refuses.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _adopt(temporary, path)
        fsync_folder(path.parent)
    except OSError:
        if os.path.lexists(path):
            message = "a key stands there already; a lost key loses every pseudonym, so it is never overwritten"
            raise UnusableKey(message) from None
        message = "the key cannot be written: check the folder's free space and permissions, then run again"
        raise StoreUnavailable(message) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _adopt(temporary: Path, path: Path) -> None:
    """Give the whole file its name; unlike a rename, a link never replaces another."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # exFAT and many shares know no second name: the name is taken first, so nobody else's key is replaced
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        temporary.replace(path)


def _read_private(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        message = "the pseudonym key cannot be opened: make one with `medgan key new`"
        raise UnusableKey(message) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            message = "the pseudonym key must be a regular file that only its owner can read (chmod 600)"
            raise UnusableKey(message)
        return os.read(descriptor, _MOST_BYTES).decode("ascii", "replace")
    except OSError:
        message = "the pseudonym key cannot be read: check its disk, then run again"
        raise StoreUnavailable(message) from None
    finally:
        os.close(descriptor)


def _parse(text: str) -> Keyring:
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        message = f"the pseudonym key must be {2 * SECRET_BYTES} hex digits: make one with `medgan key new`"
        raise UnusableKey(message)
    return Keyring(secret=secret)
