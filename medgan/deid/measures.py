"""How large a kept number may be: what its attribute can measure, and of large amounts five digits (docs/adr/0039)."""

from __future__ import annotations

import math
from array import array
from typing import Any

from medgan.deid import table

# Format, and what is too small to be measured: bytes that are a text with a space or digit at its end.
_FORMATS = {
    b"FL": ("f", 1e-18), b"FD": ("d", 1e-60), b"UL": ("I", 0), b"SL": ("i", 0), b"SV": ("q", 0), b"UV": ("Q", 0),
}  # fmt: skip


def binary(raw: bytes, vr: bytes, most: float) -> bytes | None:
    """Little-endian numbers of `vr`: `raw` itself, or rounded; `None` where one is larger than `most` or too small."""
    if vr not in _FORMATS:
        return raw  # two bytes, or a tag
    code, least = _FORMATS[vr]
    numbers: array[Any] = array(code, raw)
    if most == math.inf:  # a padding value: the largest of its type, or no number
        fits = all(abs(number) <= table.MOST_NUMBER or not abs(number) < table.LEAST_PADDING for number in numbers)
        return raw if fits else None
    if not all(least <= abs(number) <= most or number == 0 or math.isnan(number) for number in numbers):
        return None
    if most > table.MOST_EXACT and any(abs(number) > table.MOST_NUMBER for number in numbers):
        return array(code, [_rounded(number) for number in numbers]).tobytes()
    return raw


def decimal(raw: bytes, most: float) -> bytes | None:
    """Decimal strings that read as numbers, without padding: as `binary`."""
    parts = raw.split(b"\\")
    try:
        largest = max(abs(float(part)) if part.strip() else 0.0 for part in parts)
    except ValueError:
        return None  # a sign or a point alone
    if largest > most:
        return None
    if most > table.MOST_EXACT and largest > table.MOST_NUMBER:
        return b"\\".join(b"%d" % _rounded(float(part)) if part.strip() else b"" for part in parts)
    return raw


def _rounded(number: float) -> float:
    """Five significant digits of a large number; a small one as it is."""
    return number if not abs(number) > table.MOST_NUMBER else type(number)(float(f"{number:.5g}"))
