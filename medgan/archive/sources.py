"""Registered sources: a name in the open, the place sealed.

Whoever reads a task's parameters sees `ArchiveRef(source="src-...")`; only the holder of the
pseudonym key finds the folder behind it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from medgan.archive import bucket, container, images, labels, landing, structure
from medgan.archive import place as places
from medgan.archive.container import Leaf
from medgan.archive.place import Place
from medgan.archive.storage import write_atomically
from medgan.errors import BadInstance, InvalidRequest, UnusableArchive
from medgan.keys import Keyring
from medgan.records import ArchiveRef
from medgan.settings import Zones

_PURPOSE: Final = "source"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SNIFF_BYTES: Final = 4096


def preflight(place: Path | Place) -> None:
    """Look whether a path can be scanned, quickly and without writing anything; an address is admitted, not visited.

    Raises `UnusableArchive` in one sentence: missing, empty, broken, hostile, or without DICOM. `InvalidRequest`
    where this site does not speak to the host of an address.
    """
    if isinstance(place, Place) and place.is_remote:
        if place.kind == "bucket" and place.scheme != "s3":
            bucket.speaker(place.scheme)
        places.admit(place)
        return
    path = place.path if isinstance(place, Place) else place
    if isinstance(place, Place) and place.kind == "drop":
        _check_drop(path)
        return
    if not path.exists():
        message = "the archive does not exist: check the path"
        raise UnusableArchive(message)
    seen, found = 0, set()
    for leaf in container.leaves(path, spool=None):
        seen += 1
        found.add(_first_look(leaf))
        if "instance" in found or {"picture", "table"} <= found:
            return
    if not seen:
        message = "the archive is empty"
        raise UnusableArchive(message)
    message = f"the archive holds no DICOM file, and no images with a table, among its {seen:,} files"
    raise UnusableArchive(message)


def register(path: Path | Place, *, zones: Zones, keyring: Keyring, name: str | None = None) -> ArchiveRef:
    """Seal the place of a source under a name; registering the same place again changes nothing."""
    resolved = path.text if isinstance(path, Place) else str(path.expanduser().resolve())
    chosen = name or "src-" + keyring.mac("source-name", resolved).hex()[:16]
    if not _NAME.fullmatch(chosen):
        message = "a source's name is lower case letters, digits and dashes, at most 63"
        raise InvalidRequest(message)
    sealed = _sealed_path(chosen, zones)
    if sealed.exists():
        if _open(sealed.read_bytes(), keyring) != resolved:
            message = "this source name stands for another place already: choose another name"
            raise InvalidRequest(message)
    else:
        plain = json.dumps({"path": resolved}).encode()
        write_atomically(sealed, keyring.seal(_PURPOSE, plain))
    return ArchiveRef(source=chosen)


def locate(source: str, *, zones: Zones, keyring: Keyring) -> Path:
    """Where the files of a registered source lie: its path, or the landing of a remote one; stays in this package."""
    place = place_of(source, zones=zones, keyring=keyring)
    return landing.folder(source, zones) if place.is_remote else place.path


def place_of(source: str, *, zones: Zones, keyring: Keyring) -> Place:
    """The place of a registered source; it stays inside `medgan.archive`."""
    sealed = _sealed_path(source, zones)
    if not sealed.exists():
        message = "no source is registered under this name: run `medgan source add NAME PATH`"
        raise InvalidRequest(message)
    text = _open(sealed.read_bytes(), keyring)
    # An absolute path may look like no address at all, or hold a colon: it was resolved when it was sealed.
    return Place(kind="files", text=text, path=Path(text)) if text.startswith("/") else places.parse(text)


def registered(zones: Zones) -> list[str]:
    """Names of all registered sources."""
    suffix = ".sealed"
    found = (path.name.removesuffix(suffix) for path in (zones.identified / "sources").glob(f"*{suffix}"))
    return sorted(name for name in found if _NAME.fullmatch(name))


def _check_drop(path: Path) -> None:
    if not path.is_dir():
        message = "the drop folder does not exist: make it, then register it"
        raise UnusableArchive(message)


def _sealed_path(name: str, zones: Zones) -> Path:
    return zones.identified / "sources" / f"{name}.sealed"


@lru_cache(maxsize=64)
def _open(sealed: bytes, keyring: Keyring) -> str:
    return str(json.loads(keyring.unseal(_PURPOSE, sealed))["path"])


def _first_look(leaf: Leaf) -> str:
    """`instance`, `picture`, `table` or nothing, by name and first bytes; a nested archive may hold instances."""
    if leaf.extent is None:
        return ""
    if not leaf.extent.path:
        return "instance"
    if labels.looks_like_table(leaf.name):
        return "table"
    try:
        head = container.head(leaf.extent, _SNIFF_BYTES)
    except BadInstance:
        return ""
    if images.media_type(head) is not None:
        return "picture"
    return "instance" if container.archive_kind(head) or structure.starts_like_dicom(head) else ""
