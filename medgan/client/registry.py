"""Where a registry is read from: a folder or a web server, always as relative paths below one root."""

from __future__ import annotations

import functools
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from medgan.client import objects
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable

if TYPE_CHECKING:
    from http.client import HTTPMessage, HTTPResponse
    from urllib.request import OpenerDirector, Request

BLOCK_BYTES = 1 << 20
TRIES = 4
"""How often a web server is asked without progress before it is given up."""

_PROGRESS_BYTES = 1 << 16
"""What an answer must bring to be called progress: a server that drips would hold us for ever."""

_PAUSE_SECONDS = 0.1
_SLOWEST_BYTES_A_SECOND = 1024
_ASK_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
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
    try:
        scheme = urlsplit(address).scheme
    except ValueError:
        raise InvalidRequest("the registry's address is malformed") from None
    if scheme in {"http", "https"}:
        return HttpSource(address)
    if scheme in objects.SCHEMES:
        return objects.ObjectSource(address)
    if scheme == "file":
        return FolderSource(Path(unquote(urlsplit(address).path)))
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
        """See `Source`; what is no regular file (a pipe would hold us for ever) is not there."""
        try:
            descriptor = os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise _missing(path)
                file.seek(offset)
                while block := file.read(BLOCK_BYTES):
                    yield block
        except OSError:
            raise _missing(path) from None


class HttpSource:
    """A registry behind a web server. A broken line is taken up again where it broke; a stalled one is given up."""

    def __init__(self, address: str) -> None:
        """Read below `address`; nothing is opened yet."""
        self.address = address.rstrip("/")

    def blocks(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        """See `Source`."""
        failures, mark = 0, offset
        while True:
            try:
                for block in self._answer(path, offset):
                    offset += len(block)
                    yield block
            except _BrokenLine:
                failures = 1 if offset - mark >= _PROGRESS_BYTES else failures + 1
                mark = offset
                if failures == TRIES:
                    raise _missing(path) from None
                time.sleep(_PAUSE_SECONDS * 2**failures)
            else:
                return

    def _answer(self, path: str, offset: int) -> Iterator[bytes]:
        """One request; copes with a server that ignores ranges. `_BrokenLine` where asking again may help."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request

        headers = {"Range": f"bytes={offset}-"} if offset else {}
        request = Request(f"{self.address}/{quote(path)}", headers=headers)  # noqa: S310 - open_source checked the scheme
        try:
            with _opener().open(request, timeout=TIMEOUT_SECONDS) as answer:
                yield from _received(answer, skip=0 if answer.status == 206 else offset)  # noqa: PLR2004 - partial content
        except HTTPError as error:
            error.close()
            if error.code in _ASK_AGAIN:
                raise _BrokenLine from None
            raise _missing(path) from None
        except (OSError, HTTPException):
            raise _BrokenLine from None
        except ValueError:  # sent on to what is no address
            raise _missing(path) from None


@functools.cache  # as urllib keeps its own: one set of proxies and certificates a process
def _opener() -> OpenerDirector:
    """Follows redirects, never out of https or to another protocol, and hangs up where it is sent to no address."""
    from urllib.request import HTTPRedirectHandler, build_opener

    class Redirects(HTTPRedirectHandler):
        def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
            try:
                return super().http_error_302(req, fp, code, msg, headers)
            except ValueError:
                fp.close()
                raise

        def redirect_request(self, req: Request, *about: Any) -> Request | None:
            if urlsplit(about[-1]).scheme not in {"https", urlsplit(req.full_url).scheme}:  # `type` is the proxy's
                raise ValueError
            return super().redirect_request(req, *about)

        http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    return build_opener(Redirects)


def _received(answer: HTTPResponse, *, skip: int) -> Iterator[bytes]:
    """The body of an answer but its first `skip` bytes; `_BrokenLine` when it ends early or all but stands still."""
    promised = answer.length
    got, mark, since = 0, 0, time.monotonic()
    while block := answer.read1(BLOCK_BYTES):
        got += len(block)
        if got > skip:
            yield block[max(0, skip - got + len(block)) :]
        if time.monotonic() - since > TIMEOUT_SECONDS:
            if got - mark < _SLOWEST_BYTES_A_SECOND * TIMEOUT_SECONDS:
                raise _BrokenLine
            mark, since = got, time.monotonic()
    if promised is not None and got < promised:
        raise _BrokenLine


class _BrokenLine(Exception):
    """The server did not answer, or broke off."""


def _missing(path: str) -> StoreUnavailable:
    name = path.rsplit("/", 1)[-1]
    return StoreUnavailable(
        f"the registry did not give {name}: check its address, and that a version was published there"
    )
