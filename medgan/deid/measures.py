"""How large a kept number may be: what its attribute can measure, and of large amounts five digits (docs/adr/0039)."""

from __future__ import annotations

import math
from array import array
from typing import Any

from medgan.deid.table import LEAST_PADDING, MOST_NUMBER, Bound

# Format, and what is too small to be measured: bytes that are a text with a space or digit at its end.
_FORMATS = {
    b"FL": ("f", 1e-18), b"FD": ("d", 1e-60), b"UL": ("I", 0), b"SL": ("i", 0), b"SV": ("q", 0), b"UV": ("Q", 0),
}  # fmt: skip
_LONGEST_WHOLE = 12  # characters of IS; DS has room for 16 (PS3.5 6.2)


def binary(raw: bytes, vr: bytes, bound: Bound) -> bytes | None:
    """Little-endian numbers of `vr`: `raw` itself, or rounded; `None` where one is larger than `bound` or too small.

    What is no number has room for six letters: each NaN is written as the one that says nothing.
    """
    if vr not in _FORMATS:
        return raw  # two bytes, or a tag
    code, least = _FORMATS[vr]
    numbers: array[Any] = array(code, raw)
    if bound.most == math.inf:  # a padding value: the largest of its type, or no number
        fits = all(abs(number) <= MOST_NUMBER or not abs(number) < LEAST_PADDING for number in numbers)
    else:
        fits = all(least <= abs(number) <= bound.most or number == 0 or math.isnan(number) for number in numbers)
    if not fits:
        return None
    if all(abs(number) <= bound.exact for number in numbers):
        return raw
    return array(code, [_rounded(number, bound.exact) for number in numbers]).tobytes()


def decimal(raw: bytes, bound: Bound) -> bytes | None:
    """Decimal strings that read as numbers, without padding: as `binary`; each is rounded alone."""
    parts = raw.split(b"\\")
    try:
        sizes = [abs(float(part)) if part.strip() else 0.0 for part in parts]
    except ValueError:
        return None  # a sign or a point alone
    if max(sizes) > bound.most:
        return None
    if max(sizes) <= bound.exact:
        return raw
    return b"\\".join(
        _digits(float(part)) if size > bound.exact else part for part, size in zip(parts, sizes, strict=True)
    )


def _digits(number: float) -> bytes:
    whole = b"%d" % float(f"{number:.5g}")
    return whole if len(whole) <= _LONGEST_WHOLE else b"%.5g" % number


def _rounded(number: float, exact: float) -> float:
    """Five significant digits of a number beyond `exact`; a smaller one as it is; no number as the plain NaN."""
    if math.isnan(number):
        return math.nan
    return number if abs(number) <= exact else type(number)(float(f"{number:.5g}"))
