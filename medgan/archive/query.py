"""What to ask a PACS for: DICOM attributes of an address, days back from today, and the instances it lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from pydicom.datadict import tag_for_keyword

from medgan.archive.place import Place
from medgan.errors import InvalidRequest

_UID: Final = re.compile(r"[0-9.]{1,64}")
_OF_SERIES: Final = frozenset(
    ("Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "ProtocolName")
)
_OPTION: Final = re.compile(r"[a-z_]+")


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """One instance that the PACS says it holds."""

    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    sop_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Counts of one visit: what the other side lists, what was here before, what came, what it did not deliver."""

    listed: int = 0
    known: int = 0
    arrived: int = 0
    waiting: int = 0


def keys_of(place: Place) -> tuple[dict[str, str], dict[str, str]]:
    """Matching keys by keyword, of studies and of series (PS3.4 C.2.2.2): the capitalised options of the address.

    `days=N` is a range of study dates.
    """
    keys = {name: value for name, value in place.options.items() if not _OPTION.fullmatch(name)}
    for name in keys:
        if tag_for_keyword(name) is None:
            raise InvalidRequest("the address asks for something that is no DICOM attribute: see docs/ingest.md")
    if "days" in place.options:
        days = place.number("days", 1, least=1, most=36_500)
        today = datetime.now(UTC).date()
        keys["StudyDate"] = f"{today - timedelta(days=days):%Y%m%d}-{today + timedelta(days=1):%Y%m%d}"
    of_series = {name: value for name, value in keys.items() if name in _OF_SERIES}
    return {name: value for name, value in keys.items() if name not in _OF_SERIES}, of_series


def is_uid(text: str) -> bool:
    """Whether the other side's answer may be asked for again."""
    return bool(_UID.fullmatch(text))


def by_series_and_class(listed: Iterable[Listed]) -> list[list[Listed]]:
    """Runs of instances of one series and one storage class, each instance once."""
    found: dict[tuple[str, str, str], list[Listed]] = {}
    for one in sorted(set(listed)):
        found.setdefault((one.study, one.series, one.sop_class), []).append(one)
    return list(found.values())
