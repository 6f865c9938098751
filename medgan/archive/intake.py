"""The sealed index of one scan: which studies there are and where their instances lie.

A `Locator` is what travels to Dask workers: a scan, a number and a digest, nothing that names a
person or a place. The place behind it stays in the sealed index, opened inside `instance.read`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from medgan.archive import sources
from medgan.archive.container import Extent
from medgan.archive.references import Mark
from medgan.archive.storage import write_atomically
from medgan.errors import BadInstance, InvalidRequest
from medgan.keys import Keyring
from medgan.records import QuarantineReason as Reason
from medgan.records import StudyKey
from medgan.settings import Zones

_INDEX: Final = "intake"
_VERSION: Final = 3
_LABELS: Final = "intake-labels"
ISSUER_COLUMN: Final = "IssuerOfPatientID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """One instance of a scan. `sha256` and `size` are those of its file; the rest are handles."""

    scan_id: str
    number: int
    sha256: str
    size: int
    series_key: str
    instance_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeStudy:
    """One study: its instances by series and instance number, in an order that the source's names do not change."""

    key: StudyKey
    instances: tuple[Locator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What a scan found. `labels` are rows keyed by original ids: they stay in the identified zone, as do `marks`.

    Each row holds the columns of its table and, where the archive knows it and the table does not
    say it, `IssuerOfPatientID`: with it a row's patient key equals that of the patient's instances. `refused` has the
    reason of each digest among `received` that is no instance.
    """

    scan_id: str
    source: str
    studies: tuple[IntakeStudy, ...]
    labels: tuple[dict[str, str], ...]
    marks: tuple[Mark, ...]
    received: frozenset[str]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Index:
    root: str
    source: str
    files: tuple[str, ...]
    instances: Sequence[Sequence[Any]]
    studies: Sequence[tuple[str, int, int]]
    refused: Mapping[str, str]
    marks: Sequence[Sequence[str]]


def load(scan_id: str, *, zones: Zones, keyring: Keyring) -> Intake:
    """Open the sealed index and labels of one scan."""
    index = _index(scan_id, zones, keyring)
    locators = [
        Locator(scan_id=scan_id, number=number, sha256=row[5], size=row[4], series_key=row[6], instance_key=row[7])
        for number, row in enumerate(index.instances)
    ]
    studies = tuple(
        IntakeStudy(key=StudyKey(key=key), instances=tuple(locators[first:last])) for key, first, last in index.studies
    )
    sealed = _path(scan_id, "labels", zones)
    labels = _unpack(keyring.unseal(_LABELS, sealed.read_bytes())) if sealed.exists() else []
    marks = tuple(Mark(*mark) for mark in index.marks)
    received = frozenset({locator.sha256 for locator in locators} | set(index.refused))
    return Intake(
        scan_id=scan_id, source=index.source, studies=studies, labels=tuple(labels), marks=marks, received=received,
        refused=index.refused,
    )  # fmt: skip


def resolve(locator: Locator, *, zones: Zones, keyring: Keyring) -> tuple[Extent, dict[str, Any] | None]:
    """Where a locator's bytes lie, and the card of an image that is no DICOM; stays inside `medgan.archive`."""
    index = _index(locator.scan_id, zones, keyring)
    if not 0 <= locator.number < len(index.instances) or index.instances[locator.number][5] != locator.sha256:
        raise BadInstance(Reason.CHANGED_WHILE_READ)
    file, offset, stored, method, size = index.instances[locator.number][:5]
    return Extent(index.files[file], offset, stored, method, size), index.instances[locator.number][8]


def save(
    scan_id: str,
    *,
    source: str,
    files: Sequence[str],
    instances: Sequence[Sequence[Any]],
    studies: Sequence[tuple[str, int, int]],
    refused: Mapping[str, str],
    labels: Sequence[Mapping[str, str]],
    marks: Sequence[Mark],
    zones: Zones,
    keyring: Keyring,
) -> None:
    """Seal an index.

    `instances` rows: file, offset, stored, method, size, sha256, series key, instance key, card of an image or None.
    `studies` rows: study key, first and last+1 instance. `refused`: sha256 to reason.
    """
    plain = {
        "version": _VERSION,
        "source": source,
        "files": list(files),
        "instances": list(instances),
        "studies": list(studies),
        "refused": dict(refused),
        "marks": list(marks),
    }
    write_atomically(_path(scan_id, "labels", zones), keyring.seal(_LABELS, _pack(list(labels))))
    write_atomically(_path(scan_id, "", zones), keyring.seal(_INDEX, _pack(plain)))
    _cached_index.cache_clear()


def _path(scan_id: str, part: str, zones: Zones) -> Path:
    return zones.identified / "intake" / (f"{scan_id}.{part}.sealed" if part else f"{scan_id}.sealed")


def _pack(value: Any) -> bytes:
    return zlib.compress(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1
    )


def _unpack(packed: bytes) -> Any:
    return json.loads(zlib.decompress(packed).decode("utf-8", "surrogatepass"))


def _index(scan_id: str, zones: Zones, keyring: Keyring) -> _Index:
    return _cached_index(scan_id, zones, keyring)


@lru_cache(maxsize=4)
def _cached_index(scan_id: str, zones: Zones, keyring: Keyring) -> _Index:
    path = _path(scan_id, "", zones)
    if not path.exists():
        message = "this scan is not known here: scan the source again"
        raise InvalidRequest(message)
    plain = _unpack(keyring.unseal(_INDEX, path.read_bytes()))
    if plain["version"] != _VERSION:
        message = "this scan was made by another version: scan the source again"
        raise InvalidRequest(message)
    root = str(sources.locate(plain["source"], zones=zones, keyring=keyring))
    own_spool = spool(plain["source"], zones)
    return _Index(
        root=root,
        source=plain["source"],
        files=tuple(_absolute(file, root, own_spool) for file in plain["files"]),
        instances=plain["instances"],
        studies=[(row[0], row[1], row[2]) for row in plain["studies"]],
        refused=plain["refused"],
        marks=plain["marks"],
    )


def _absolute(file: str, root: str, own_spool: Path) -> str:
    """Files are kept relative to the source, or to its spool (`spool:`), so that both may move."""
    if file.startswith("spool:"):
        return str(own_spool / file.removeprefix("spool:"))
    return root if file == "." else f"{root}/{file}"


def relative(file: str, root: Path, own_spool: Path) -> str:
    """Inverse of what `load` does to a file's path."""
    path = Path(file)
    if path.parent == own_spool:
        return f"spool:{path.name}"
    return path.relative_to(root).as_posix()


def spool(source: str, zones: Zones) -> Path:
    """Where unpacked nested archives of a source lie, in the identified zone."""
    return zones.identified / "spool" / source
