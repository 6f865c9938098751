"""Where a registry is read from: a folder or a web server, always as relative paths below one root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from medgan.client import objects
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
_SMALL_FILE_BYTES = 64 << 20
_LONGEST_PATH = 1024
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


class Source(Protocol):
    """Reads files of a registry."""

    address: str

    def blocks(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        """The bytes of `path` from `offset` on; `StoreUnavailable` when there is none or no answer."""
        ...


def open_source(address: str) -> Source:
    """A source for a folder, or a `file://`, `http(s)://`, `s3://`, `gs://` or `az://` address."""
    scheme = urlsplit(address).scheme
    if scheme in {"http", "https"}:
        return HttpSource(address)
    if scheme in objects.SCHEMES:
        return objects.ObjectSource(address)
    if scheme == "file":
        return FolderSource(Path(urlsplit(address).path))
    if "://" in address or not address:
        raise InvalidRequest(
            "a registry is a folder, or an address with file://, http://, https://, s3://, gs:// or az://"
        )
    return FolderSource(Path(address).expanduser())


def read_all(source: Source, path: str) -> bytes:
    """The whole of a small file (index, manifest, envelope); at most 64 MiB is read."""
    held = bytearray()
    for block in source.blocks(path):
        held += block
        if len(held) > _SMALL_FILE_BYTES:
            raise IntegrityError("a file that should be small is larger than 64 MiB: it is not read")
    return bytes(held)


def safe_path(path: str) -> str:
    """`path` when it is relative, POSIX, normal and below the version; else `IntegrityError`."""
    if not path or len(path) > _LONGEST_PATH or not all(_SAFE_PART.fullmatch(part) for part in path.split("/")):
        raise IntegrityError(
            "the manifest names a path outside the version, or one that no release has: it is not believed"
        )
    return path


class FolderSource:
    """A registry in a folder."""

    def __init__(self, root: Path) -> None:
        """Read below `root`; nothing is opened yet."""
        self.root = root.resolve()
        self.address = str(self.root)

    def blocks(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        """See `Source`."""
        try:
            with (self.root / path).open("rb") as file:
                file.seek(offset)
                while block := file.read(BLOCK_BYTES):
                    yield block
        except OSError:
            raise _missing(path) from None


class HttpSource:
    """A registry behind a web server."""

    def __init__(self, address: str) -> None:
        """Read below `address`; nothing is opened yet."""
        self.address = address.rstrip("/")

    def blocks(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        """See `Source`; a resumed read asks for a range and copes with a server that ignores it."""
        from http.client import HTTPException
        from urllib.request import Request, urlopen

        headers = {"Range": f"bytes={offset}-"} if offset else {}
        request = Request(f"{self.address}/{quote(path)}", headers=headers)  # noqa: S310 - open_source checked the scheme
        try:
            with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - likewise
                skip = 0 if answer.status == 206 else offset  # noqa: PLR2004 - HTTP: partial content
                while skip and (block := answer.read(min(skip, BLOCK_BYTES))):
                    skip -= len(block)
                while block := answer.read(BLOCK_BYTES):
                    yield block
        except (OSError, HTTPException):
            raise _missing(path) from None


def _missing(path: str) -> StoreUnavailable:
    name = path.rsplit("/", 1)[-1]
    return StoreUnavailable(
        f"the registry did not give {name}: check its address, and that a version was published there"
    )
