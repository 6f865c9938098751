"""Files built to break a reader, and places to put them."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from medgan import keys
from medgan.archive import intake, phantom, scan, sources, structure, writer
from medgan.archive.intake import Intake
from medgan.archive.writer import Element
from medgan.keys import Keyring
from medgan.records import ScanReport
from medgan.settings import Zones

RADIOGRAPHS = Path(__file__).parents[2] / "samples" / "pneumoniamnist" / "pneumoniamnist.npz"
KEYRING = Keyring(secret=bytes(range(32)))


def zones_under(folder: Path) -> Zones:
    zones = Zones.under(folder)
    if not (zones.keys / "pseudonym.key").exists():
        keys.create(zones.keys / "pseudonym.key")
    return zones


def scan_path(path: Path, zones: Zones) -> tuple[ScanReport, Intake]:
    ref = sources.register(path, zones=zones, keyring=KEYRING)
    report = scan.scan(ref, zones=zones, keyring=KEYRING)
    return report, intake.load(report.scan_id, zones=zones, keyring=KEYRING)


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def sound(**arguments: object) -> bytes:
    """One sound CT instance."""
    return phantom.phantom_study(**arguments)[0]  # type: ignore[arg-type]


def rebuilt(extra: Iterable[Element] = (), *, without: Iterable[int] = ()) -> bytes:
    """The sound instance with elements replaced, added or left out."""
    made = {one[0]: one for one in (*_plain(), *extra)}
    return writer.part10([made[tag] for tag in sorted(made) if tag not in set(without)])


def _plain() -> Iterable[Element]:
    """The elements of a plain instance, few enough to be read in a test's output."""
    yield from ((0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.2"), (0x00080018, "UI", "2.25.1"))
    yield from ((0x00080060, "CS", "CT"), (0x00100010, "PN", "Doe^Jane"), (0x00100020, "LO", "ID-1"))
    yield from ((0x0020000D, "UI", "2.25.2"), (0x0020000E, "UI", "2.25.3"), (0x00200013, "IS", "1"))
    yield from ((0x00280002, "US", 1), (0x00280004, "CS", "MONOCHROME2"), (0x00280010, "US", 8), (0x00280011, "US", 8))
    yield from ((0x00280100, "US", 16), (0x00280101, "US", 16), (0x00280102, "US", 15), (0x00280103, "US", 0))
    yield (0x7FE00010, "OW", struct.pack("<64H", *range(64)))


def nested(depth: int, *, undefined: bool) -> bytes:
    """A file whose ContentSequence holds itself `depth` times."""
    head, end = b"\x40\x00\x30\xa7SQ\0\0", b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    if undefined:
        value = (head + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * depth + end * depth
    else:
        value = b""
        for _ in range(depth):
            item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(value)) + value
            value = head + struct.pack("<L", len(item)) + item
    return _with_body(lambda body: _before_pixels(body, value))


def with_raw(value: bytes, *, before_pixels: bool = True) -> bytes:
    """The plain file with raw bytes before its pixel data, or after its end."""
    return _with_body(lambda body: _before_pixels(body, value) if before_pixels else body + value)


def _before_pixels(body: bytes, value: bytes) -> bytes:
    at = body.index(b"\xe0\x7f\x10\x00")
    return body[:at] + value + body[at:]


def _with_body(change) -> bytes:  # type: ignore[no-untyped-def]
    whole = rebuilt()
    shape = structure.walk(whole)
    return whole[: shape.start] + change(whole[shape.start :])


def deflated(body: bytes) -> bytes:
    """A file in the deflated transfer syntax that inflates to `body`."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = machine.compress(body) + machine.flush()
    plain = list(_plain())
    return writer.part10(plain, transfer_syntax=structure.DEFLATED_LITTLE, body=packed)


def encapsulated(syntax: str, *codes: bytes, extra: Iterable[Element] = ()) -> bytes:
    """The plain instance with its pixels as encapsulated fragments, one a frame."""
    made = {one[0]: one for one in (*_plain(), *extra) if one[0] != 0x7FE00010}
    fragments = b"".join(
        b"\xfe\xff\x00\xe0" + struct.pack("<L", len(code) + len(code) % 2) + code + b"\0" * (len(code) % 2)
        for code in (b"", *codes)
    )
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"
    body = writer.dataset(made.values()) + pixels
    return writer.part10(list(made.values()), transfer_syntax=syntax, body=body)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def closed(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError | None = None) -> None:
    """Refuse to list `folder` with `fault`; else as a system does for whoever is not root."""
    whole = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path) == folder:
            raise fault or PermissionError
        return whole(path)

    monkeypatch.setattr(os, "scandir", refusing)
