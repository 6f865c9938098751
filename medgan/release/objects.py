"""A registry in an object store (S3 and what speaks like it), by obstore: claims, conditional writes, a probe."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgan.client import disk, objects, verify
from medgan.client.index import ENVELOPE, FILE, is_number
from medgan.client.registry import Source
from medgan.errors import Conflict, InvalidRequest
from medgan.records import Manifest
from medgan.release.stores import BUSY, LOCK, Held, shared

UPLOADS_AT_ONCE = 8
PROBE = ".probe"
_RACERS = 8
_BETWEEN = "\n"
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"
_KINDS = {
    ".js": "text/javascript",
    ".dsse": "application/json",
    ".jsonld": "application/ld+json",
    ".md": "text/markdown",
}
_TAKEN = "another publisher took this version's number: run again, and it will get the next one"
_MOVED = "another publisher changed the registry's index meanwhile and won: run again, on top of what it published"


class ObjectStore:
    """Publishes below `s3://bucket/prefix`. `desk` is a local folder for staging and for this machine's own lock."""

    def __init__(self, address: str, *, desk: Path, store: Any = None) -> None:
        """Publish to `address`; `store` is an obstore store already opened there."""
        source = objects.ObjectSource(address, store=store)
        self.source: Source = source
        self.desk = desk
        self._store = source.store

    def probe(self) -> None:
        """`InvalidRequest` unless creating is exclusive, also in a race, and a stale `If-Match` fails.

        Stores that lose acknowledged commits exist (design page): with one of them two publishers overwrite each other.
        """
        path = f"{PROBE}/{secrets.token_hex(8)}"
        with objects.explained(), ThreadPoolExecutor(_RACERS) as racers:
            made = [
                token for token in racers.map(lambda racer: self._create(path, b"%d" % racer), range(_RACERS)) if token
            ]
            honest = len(made) == 1
            if honest:
                second = self._swap(path, b"second", made[0])
                honest = second is not None and self._swap(path, b"third", made[0]) is None
                honest = honest and self._read(path) == (b"second", second)
            self._api.delete(self._store, path)
        if not honest:
            raise InvalidRequest(
                "this object store does not honour conditional writes (If-None-Match, If-Match): two publishers would "
                "overwrite each other; publish to a folder, or to a store that does"
            )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """See `Store`; publishers on other machines are met by the conditional writes."""
        with disk.locked(self.desk / LOCK, busy=BUSY), disk.explained(), objects.explained():
            yield

    def read(self, path: str) -> Held | None:
        """See `Store`."""
        with objects.explained():
            found = self._read(path)
        return None if found is None else Held(body=found[0], token=found[1])

    def versions(self, name: str) -> list[str]:
        """See `Store`."""
        listed = self._api.list_with_delimiter(self._store, prefix=f"{name}/")["common_prefixes"]
        return [number for folder in listed if is_number(number := folder.rstrip("/").rsplit("/", 1)[-1])]

    def whole(self, made: Manifest) -> bool:
        """See `Store`: the objects there have the names and sizes of the manifest."""
        found = self._sizes(f"{made.name}/{made.version}/")
        return verify.ENVELOPE in found and all(found.get(file.path) == file.size for file in made.files)

    def place(self, staging: Path, made: Manifest, previous: Manifest | None) -> None:
        """Claim the number by its manifest, then upload what is missing; the same version again is no conflict."""
        where, body = f"{made.name}/{made.version}", made.canonical()
        if self._create(f"{where}/{verify.MANIFEST}", body) is None:
            held = self._read(f"{where}/{verify.MANIFEST}")
            if held is None or held[0] != body:
                raise Conflict(_TAKEN)
        same = shared(made, previous) if previous is not None else {}
        before = f"{previous.name}/{previous.version}" if previous is not None else ""
        there, standing = self._sizes(f"{where}/"), self._sizes(f"{before}/") if same else {}

        def send(path: str, size: int) -> None:
            if there.get(path) == size:
                return
            if path in same and standing.get(path) == size:
                self._api.copy(self._store, f"{before}/{path}", f"{where}/{path}")
            else:
                self._put(f"{where}/{path}", staging / path, keep=True)

        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
            for sent in [threads.submit(send, file.path, file.size) for file in made.files]:
                sent.result()
        # the receipt that erasure looks up and a run shows: before the version is whole, or no run would write it
        disk.write_file(self.desk / where / verify.MANIFEST, body)
        for picture in (staging / "preview").glob("*.webp"):
            disk.write_file(self.desk / where / "preview" / picture.name, picture.read_bytes())
        if verify.ENVELOPE not in there:
            self._create(f"{where}/{verify.ENVELOPE}", (staging / verify.ENVELOPE).read_bytes())

    def replace(self, path: str, body: bytes, held: Held) -> None:
        """See `Store`."""
        if self._swap(path, body, held.token) is None:
            self._unless_ours(path, body)

    def write_index(self, files: Mapping[str, bytes], held: Held | None) -> None:
        """See `Store`: the envelope by compare and swap, then the pages, which follow it."""
        if ENVELOPE in files:
            body = files[ENVELOPE]
            done = self._create(ENVELOPE, body) if held is None else self._swap(ENVELOPE, body, held.token)
            if done is None:
                self._unless_ours(ENVELOPE, body)
        for path in sorted(set(files) - {ENVELOPE}):
            self._put(path, files[path], keep=False)
        if FILE in files:
            disk.write_file(self.desk / FILE, files[FILE])  # what metrics and doctors read

    def erase(self, name: str, version: str) -> None:
        """See `Store`."""
        for page in self._pages(f"{name}/{version}/"):
            self._api.delete(self._store, [item["path"] for item in page])

    @property
    def _api(self) -> Any:
        return objects.api()

    def _unless_ours(self, path: str, body: bytes) -> None:
        """A write that was answered too late is tried again by the client, and then refused because of itself."""
        held = self._read(path)
        if held is None or held[0] != body:
            raise Conflict(_MOVED)

    def _read(self, path: str) -> tuple[bytes, str] | None:
        try:
            found = self._api.get(self._store, path)
        except (FileNotFoundError, self._errors.NotFoundError):
            return None
        return bytes(found.bytes()), _token(found.meta)

    def _create(self, path: str, body: bytes) -> str | None:
        """Write a new object; its token, or None when one stands there."""
        return self._conditional(path, body, "create")

    def _swap(self, path: str, body: bytes, token: str) -> str | None:
        """Replace the object that has `token`; the new token, or None when it has another one."""
        e_tag, version = token.split(_BETWEEN)
        return self._conditional(path, body, {"e_tag": e_tag} | ({"version": version} if version else {}))

    def _conditional(self, path: str, body: bytes, mode: Any) -> str | None:
        try:
            done = self._api.put(self._store, path, body, mode=mode, attributes=_about(path, keep=False))
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            return None
        return _token(done)

    def _put(self, path: str, body: bytes | Path, *, keep: bool) -> None:
        self._api.put(self._store, path, body, attributes=_about(path, keep=keep))

    def _sizes(self, folder: str) -> dict[str, int]:
        """Path below `folder` -> bytes, of every object in it."""
        return {item["path"].removeprefix(folder): item["size"] for page in self._pages(folder) for item in page}

    def _pages(self, prefix: str) -> Iterator[list[dict[str, Any]]]:
        return iter(self._api.list(self._store, prefix=prefix))

    @property
    def _errors(self) -> Any:
        return objects.api_errors()


def _token(about: Mapping[str, Any]) -> str:
    """What a store calls one content of an object: S3 an entity tag, others a version too."""
    return f"{about['e_tag']}{_BETWEEN}{about['version'] or ''}"


def _about(path: str, *, keep: bool) -> dict[str, str]:
    """What a browser needs to know, so that the catalogue works from the bucket itself."""
    suffix = Path(path).suffix
    kind = _KINDS.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    return {"Content-Type": kind, "Cache-Control": _FOR_EVER if keep else _ASK_AGAIN}
