"""What the last scan of a source found in each of its files, so that the next one reads only what changed.

A file whose size, times and inode are as they were is not opened again; whatever is taken from it later is
hashed against the scan anyway. The memory is sealed: it holds places and original patient ids.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from medgan.archive.references import Mark
from medgan.archive.storage import write_atomically
from medgan.errors import UnusableKey
from medgan.keys import Keyring
from medgan.settings import Zones

_PURPOSE: Final = "scan-memory"
_VERSION: Final = 6  # raised whenever a file may be judged differently than before
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What grouping needs of one instance: keyed handles, and the patient's own ids for joining labels.

    `person` is a keyed digest of name and birth date: two of them under one id are flagged. `names` are the
    other identifiers a table of labels may use: accession number, study, series and instance UID.
    """

    patient: str
    study: str
    series: str
    instance: str
    number: int
    person: str
    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one leaf turned out to be. `digest` is its SHA-256, or a keyed name where it could not be read.

    `reason` is set for a refused leaf, `rows` for a table (empty for a DICOMDIR and a structure set), `header` for an
    instance, `image` for a picture: the path by which a table may name its patient. `marks` are what a segmentation or
    a structure set says of images.
    """

    digest: str
    size: int
    file: str = field(repr=False)
    place: tuple[int, int, int, int] = (0, 0, 0, 0)
    reason: str = ""
    rows: list[dict[str, str]] | None = field(default=None, repr=False)
    header: Header | None = field(default=None, repr=False)
    image: str = field(default="", repr=False)
    marks: list[Mark] = field(default_factory=list, repr=False)


def recall(source: str, *, zones: Zones, keyring: Keyring) -> dict[str, tuple[Stamp, list[Outcome]]]:
    """Outcomes by relative file with the stamps they were found under; empty where nothing is remembered."""
    path = _path(source, zones)
    if not path.exists():
        return {}
    try:
        plain = json.loads(zlib.decompress(keyring.unseal(_PURPOSE, path.read_bytes())))
    except (UnusableKey, OSError, ValueError, zlib.error):
        return {}  # what is not remembered is read again
    if plain["version"] != _VERSION:
        return {}
    return {file: (tuple(stamp), [_revived(one) for one in found]) for file, (stamp, found) in plain["files"].items()}


def _revived(one: dict[str, Any]) -> Outcome:
    header = None if one["header"] is None else Header(**one["header"] | {"names": tuple(one["header"]["names"])})
    marks = [Mark(*mark) for mark in one["marks"]]
    return Outcome(**one | {"place": tuple(one["place"]), "header": header, "marks": marks})


def remember(source: str, files: Mapping[str, tuple[Stamp, list[Outcome]]], *, zones: Zones, keyring: Keyring) -> None:
    """Replace what is remembered of a source."""
    plain = {
        "version": _VERSION,
        "files": {file: (stamp, [asdict(one) for one in found]) for file, (stamp, found) in files.items()},
    }
    packed = zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 1)
    write_atomically(_path(source, zones), keyring.seal(_PURPOSE, packed))


def tidy(spool: Path, files: Mapping[str, tuple[Stamp, list[Outcome]]], found: Iterable[Outcome] = ()) -> None:
    """Remove unpacked archives from the spool that neither a remembered file nor what was just found refers to."""
    if not spool.is_dir():
        return
    remembered = (outcome for _, outcomes in files.values() for outcome in outcomes)
    wanted = {Path(outcome.file).name for outcome in (*remembered, *found)}
    for path in spool.iterdir():
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def _path(source: str, zones: Zones) -> Path:
    return zones.identified / "sources" / f"{source}.memory.sealed"
