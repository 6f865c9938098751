"""A version on disk against its signed manifest: every byte, no file more, no file less."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from medgan.client import disk
from medgan.client import trust as trusts
from medgan.client.registry import BLOCK_BYTES, safe_path
from medgan.errors import IntegrityError
from medgan.records import Manifest, sha256_hex

MANIFEST = "manifest.json"
ENVELOPE = "manifest.dsse"
PREDICATE_TYPE = "urn:medgan:release:1"
STATEMENT = "https://in-toto.io/Statement/v1"

Progress = Callable[[int, int], None]


def read_manifest(body: bytes, envelope: bytes, *, keys: Sequence[str], name: str, version: str) -> Manifest:
    """The manifest of `name`@`version` when every key of `keys` signed it; else `IntegrityError`."""
    what = f"{name}@{version}"
    signed = trusts.open_envelope(envelope, kind=trusts.STATEMENT_TYPE, keys=keys, what=what)
    statement = _json(signed, what)
    subjects = {
        item.get("name"): (item.get("digest") or {}).get("sha256")
        for item in statement.get("subject", ())
        if isinstance(item, dict)
    }
    if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE_TYPE:
        raise IntegrityError(f"the statement about {what} is of another kind: it is not believed")
    if subjects.get(MANIFEST) != sha256_hex(body):
        raise IntegrityError(f"the manifest of {what} is not the one that was signed: it is not believed")
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError:
        raise IntegrityError(f"the manifest of {what} is malformed: update medgan, or ask the publisher") from None
    if (manifest.name, manifest.version) != (name, version):
        raise IntegrityError(f"the manifest belongs to another version than {what}: it is not believed")
    paths = [safe_path(file.path) for file in manifest.files]
    if paths != sorted(set(paths)) or {MANIFEST, ENVELOPE} & set(paths):
        raise IntegrityError(f"the manifest of {what} lists a file twice or out of order: it is not believed")
    lying = {path.casefold() for path in (*paths, MANIFEST, ENVELOPE)}
    folders = {str(folder).casefold() for path in paths for folder in PurePosixPath(path).parents}
    if folders & lying or len(lying) < len(paths) + 2:
        raise IntegrityError(f"the manifest of {what} lists files that cannot lie in one folder: it is not believed")
    return manifest


def verify_folder(
    folder: Path, *, keys: Sequence[str], name: str, version: str, on_progress: Progress | None = None
) -> Manifest:
    """Check a whole version in `folder`: signatures, manifest, every file's size and SHA-256, nothing extra."""
    manifest = read_manifest(
        small_file(folder / MANIFEST), small_file(folder / ENVELOPE), keys=keys, name=name, version=version
    )
    refuse_strangers(folder, manifest)
    done, total = 0, sum(file.size for file in manifest.files)
    for file in manifest.files:
        size, sha256 = digest_file(folder / file.path)
        if (size, sha256) != (file.size, file.sha256):
            raise IntegrityError(f"{name}@{version}: {_leaf(file.path)} is damaged; delete the copy and pull again")
        done += size
        if on_progress is not None:
            on_progress(done, total)
    return manifest


def refuse_strangers(folder: Path, manifest: Manifest) -> None:
    """`IntegrityError` when the folder holds a file, link or folder that the manifest does not account for."""
    listed = {file.path for file in manifest.files} | {MANIFEST, ENVELOPE}
    found = set()
    for path, mode in _entries(folder):
        if not stat.S_ISREG(mode):
            raise IntegrityError(f"{manifest.name}@{manifest.version} holds a link or device: it is not believed")
        found.add(path.relative_to(folder).as_posix())
    if extra := found - listed:
        raise IntegrityError(f"{manifest.name}@{manifest.version} holds {len(extra)} files that were not published")
    if missing := listed - found:
        raise IntegrityError(f"{manifest.name}@{manifest.version} lacks {len(missing)} of its files: pull it again")


def digest_file(path: Path) -> tuple[int, str]:
    """Size in bytes and hex SHA-256 of a regular file; (-1, "") where there is none.

    `StoreUnavailable` when a disk does not give it, or may not: that is no damage of the file.
    """
    hasher, size = hashlib.sha256(), 0
    with disk.explained():
        try:
            with path.open("rb", buffering=0) as file:
                while block := file.read(BLOCK_BYTES):
                    hasher.update(block)
                    size += len(block)
        except FileNotFoundError:
            return -1, ""
    return size, hasher.hexdigest()


def small_file(path: Path) -> bytes:
    """The bytes of a version's manifest or envelope, which is a regular file; `IntegrityError` where it is not."""
    with disk.explained():
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise IntegrityError(f"{path.name} is a link or device: the version is not believed")
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise IntegrityError(f"the version lacks its {path.name}: it is not believed; pull it again") from None


def _entries(folder: Path) -> Iterator[tuple[Path, int]]:
    """All that lies below `folder` but folders, with its mode; `StoreUnavailable` when a part may not be read."""
    with disk.explained():
        for place, folders, names in os.walk(folder, onerror=_refuse):
            for path in (Path(place) / name for name in (*folders, *names)):
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    yield path, mode


def _refuse(error: OSError) -> None:
    raise error


def _json(body: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise IntegrityError(f"the statement about {what} is malformed: it is not believed")
    return value


def _leaf(path: str) -> str:
    return path.rsplit("/", 1)[-1]
