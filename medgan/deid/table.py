"""The two tables of this package: PS3.15 Table E.1-1 and the attributes outside it that may survive."""

from __future__ import annotations

import csv
import functools
import math
from importlib import resources
from typing import NamedTuple

from pydicom._dicom_dict import DicomDictionary

EDITION = "2026c"
OPTIONS = (
    "safe-private",
    "uids",
    "device-identity",
    "institution-identity",
    "patient-characteristics",
    "full-dates",
    "modified-dates",
    "clean-descriptors",
    "clean-structured-content",
    "clean-graphics",
)
PRIVATE_PATTERN = "ggggeeee"
MOST_NUMBER = 99_999.0
"""Of a number without a row in bounds.csv: what images are made with is smaller, what people are filed under larger."""
LEAST_PADDING = 1e30
"""Of a value that stands for no measurement: the largest of its type, or none (inf in bounds.csv)."""
MOST_EXACT = 1e7
"""Where more is possible something is measured or counted (Bq, us): five digits of it say enough, and name nobody."""


class Row(NamedTuple):
    """One row of Table E.1-1: `pattern` is 8 hex digits with `x` for any, `options` maps option to action."""

    pattern: str
    keyword: str
    vr: str
    basic: str
    options: dict[str, str]
    option_edition: str


class Allowed(NamedTuple):
    """One attribute outside Table E.1-1 that may survive when its value passes `rule`."""

    tag: int
    keyword: str
    vr: str
    vm: str
    rule: str


class Bound(NamedTuple):
    """How large a number may be: none beyond `most`, five digits beyond `exact`.

    A number that is `lost` goes; `empty` keeps its attribute (type 2, PS3.5 7.4.3), `refuse` refuses the instance.
    """

    most: float = MOST_NUMBER
    exact: float = MOST_NUMBER
    lost: str = ""


@functools.cache
def rows() -> tuple[Row, ...]:
    """Table E.1-1, sorted by tag."""
    return tuple(
        Row(
            line["tag"],
            line["keyword"],
            line["vr"],
            line["basic"],
            {option: line[option] for option in OPTIONS if line[option]},
            line["option_edition"],
        )
        for line in lines("table_e1_1.csv")
    )


@functools.cache
def allowed() -> tuple[Allowed, ...]:
    """The attributes outside Table E.1-1 that may survive, sorted by tag."""
    return tuple(
        Allowed(int(line["tag"], 16), line["keyword"], line["vr"], line["vm"], line["rule"])
        for line in lines("allowed.csv")
    )


@functools.cache
def vocabulary() -> frozenset[str]:
    """Lower-case words that kept text may consist of; words that are also people's names are not among them."""
    return frozenset(_read("vocabulary.txt").split()) - frozenset(_read("names.txt").split())


@functools.cache
def _bounds() -> dict[str, Bound]:
    bounds = {}
    for line in lines("bounds.csv"):
        most = float(line["most"])
        exact = most if most <= MOST_EXACT or math.isinf(most) else MOST_NUMBER
        bounds[line["keyword"]] = Bound(most, float(line["exact"] or exact), line["lost"])
    return bounds


def bound(keyword: str) -> Bound:
    """What the attribute's number can be in its unit (PS3.3), and what becomes of it when it is more."""
    return _bounds().get(keyword, Bound())


def _read(name: str) -> str:
    return resources.files("medgan.deid").joinpath(name).read_text(encoding="utf-8")


def lines(name: str) -> list[dict[str, str]]:
    """Rows of one CSV file of this package."""
    return list(csv.DictReader(_read(name).splitlines()))


def content_sha256() -> str:
    """Hex SHA-256 over the tables, for the audit."""
    import hashlib

    names = ("table_e1_1.csv", "allowed.csv", "safe_private.csv", "bounds.csv", "vocabulary.txt", "names.txt")
    return hashlib.sha256("\0".join(_read(name) for name in names).encode()).hexdigest()


_VR = {tag: entry[0][:2].encode() for tag, entry in DicomDictionary.items()}
PERSONS = frozenset(tag for tag, vr in _VR.items() if vr == b"PN")


def standard_vr(tag: int) -> bytes:
    """VR of a standard attribute by PS3.6 (the first where there is a choice); `UN` for the rest."""
    found = _VR.get(tag)
    if found is not None:
        return found
    if tag >> 16 & 1:
        return b"LO" if 0x10 <= tag & 0xFFFF <= 0xFF else b"UN"  # noqa: PLR2004 - private creators, PS3.5 7.8.1
    if tag & 0xFFFF == 0:
        return b"UL"
    return b"UN"
