"""What was done, one line an instance, chained by hashes so that no line can be changed, dropped or added unseen.

A log is a folder of JSON-lines files, one a run: `0001.jsonl`, `0002.jsonl`, ... Each line holds `previous`, the
digest of the line before it (of the last line of the file before, for a first line), and `digest`, over its own
content. A run's last line says how many instances it holds, so that a cut file is noticed. No line
holds an original value: instances are named by pseudonym and by the SHA-256 of their bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medgan.errors import IntegrityError, StoreUnavailable
from medgan.records import canonical_json, sha256_hex
from medgan.sync import fsync_folder

START = "0" * 64
_DIGITS = 4
# Quotes inside of strings are escaped, so these are found as keys only; "previous" always stands behind "digest".
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})",')
_PREVIOUS = re.compile(rb'"previous":"([0-9a-f]{64})"')
_CLOSED = b'{"closed":true,'


def chain(previous: str, content: dict[str, Any]) -> dict[str, Any]:
    """One line: `content` with the digest of the line before and its own."""
    line = {**content, "previous": previous}
    return {**line, "digest": sha256_hex(canonical_json(line))}


class Log:
    """One run's part of a log, written under a temporary name and renamed when the run is complete."""

    def __init__(self, folder: Path, on_line: Callable[[bytes], object] | None = None) -> None:
        """Continue the log in `folder`, whose existing files are verified first."""
        folder.mkdir(parents=True, exist_ok=True)
        self.previous, self.runs, _ = verify(folder, on_line)
        self.path = folder / f"{self.runs + 1:0{_DIGITS}d}.jsonl"
        self.temporary = folder / f".{self.path.name}.part"
        self.instances = 0

    def __enter__(self) -> Self:
        """Open the file; what a killed run left is overwritten."""
        try:
            self.file = self.temporary.open("wb")
        except OSError:
            raise StoreUnavailable("the audit log cannot be written: check space and permissions") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run with its count and make it visible; a failed run leaves no file."""
        del error, trace
        try:
            if kind is None:
                self._write({"closed": True, "instances": self.instances})
                self.file.flush()
                os.fsync(self.file.fileno())
                self.temporary.replace(self.path)
                fsync_folder(self.path.parent)
        finally:
            with suppress(OSError):  # a full disk refuses what is left in the buffer
                self.file.close()
            self.temporary.unlink(missing_ok=True)

    def add(self, content: dict[str, Any]) -> None:
        """Append what was done to one instance."""
        self.instances += 1
        self._write(content)

    def _write(self, content: dict[str, Any]) -> None:
        line = chain(self.previous, content)
        self.previous = str(line["digest"])
        self.file.write(canonical_json(line) + b"\n")


def verify(folder: Path, on_line: Callable[[bytes], object] | None = None) -> tuple[str, int, int]:
    """Head digest, runs and instances of a log; `IntegrityError` where its chain is broken.

    `on_line` gets the bytes of each line about an instance, when it was found to be whole.
    """
    previous, runs, instances = START, 0, 0
    for path in _files(folder):
        runs += 1
        if path.name != f"{runs:0{_DIGITS}d}.jsonl":
            raise IntegrityError(f"run {runs} of the audit log is missing")
        count, closed = 0, False
        for raw in path.read_bytes().splitlines():
            digest = _digest_of(raw, previous)
            if closed or digest is None:
                raise IntegrityError(f"line {count + 1} of run {runs} of the audit log was changed, added or removed")
            previous, closed = digest, raw.startswith(_CLOSED)
            count += not closed
            if closed and json.loads(raw)["instances"] != count:
                raise IntegrityError(f"run {runs} of the audit log lost lines")
            if on_line is not None and not closed:
                on_line(raw)
        if not closed:
            raise IntegrityError(f"run {runs} of the audit log is cut off")
        instances += count
    return previous, runs, instances


def _digest_of(raw: bytes, previous: str) -> str | None:
    """Digest of a line that follows `previous` and is what its digest says; `None` for any other.

    A line is canonical JSON, so its bytes without the digest are what was hashed: nothing needs to be parsed.
    """
    digests = _DIGEST.findall(raw)
    if len(digests) != 1 or _PREVIOUS.findall(raw) != [previous.encode()]:
        return None
    said: bytes = digests[0]
    return said.decode() if sha256_hex(_DIGEST.sub(b"", raw)).encode() == said else None


def extend(folder: Path, contents: Iterable[dict[str, Any]]) -> int:
    """Verify the log and append, as one run, each of `contents` that it does not say yet; returns how many it added.

    The run's file appears when all of it is durable, so a kill leaves no torn line, and a rerun says nothing twice.
    `IntegrityError` where the chain is broken: nothing is built upon it.
    """
    fresh = {_content_digest(canonical_json(chain(START, content))): content for content in contents}
    log = Log(folder, on_line=lambda raw: fresh.pop(_content_digest(raw), None))
    if fresh:
        with log:
            for content in fresh.values():
                log.add(content)
    return len(fresh)


def append(folder: Path, content: dict[str, Any]) -> None:
    """Append one line, as a run of its own; those who do so at once wait for each other."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with Log(folder) as log:
            log.add(content)
    finally:
        os.close(descriptor)


def _content_digest(raw: bytes) -> bytes:
    """Digest of a line without its place in the chain."""
    return sha256(_PREVIOUS.sub(b"", _DIGEST.sub(b"", raw))).digest()


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Lines about instances, in order."""
    for path in _files(folder):
        yield from (line for line in _lines(path) if not line.get("closed"))


def _files(folder: Path) -> list[Path]:
    """The files of a log in the order of their runs: the ten thousandth has a digit more."""
    return sorted(folder.glob("[0-9]*.jsonl"), key=lambda path: (len(path.name), path.name))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise IntegrityError(f"line {number} of an audit file is no record")
        yield line
