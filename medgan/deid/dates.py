"""Shifting dates by whole days, so that every interval of one patient stays exact."""

from __future__ import annotations

import datetime as dt
import functools
import re

# DA is YYYYMMDD, in ACR-NEMA 2.0 YYYY.MM.DD (PS3.5 6.2).
_DATE = re.compile(rb"\s*(\d{4})\.?(\d{2})\.?(\d{2})\s*\0?")
# DT is YYYYMMDDHHMMSS.FFFFFF&ZZXX, cut anywhere after the year; a date without a day cannot be shifted exactly.
# A record number is no time of a day: hours end at 23, minutes at 59, seconds at 60 (a leap second), zones at 14 hours.
_HOUR, _MINUTE, _SECOND = rb"(?:[01]\d|2[0-3])", rb"[0-5]\d", rb"(?:[0-5]\d|60)"
_FRACTION, _ZONE = rb"(?:\.\d{1,6})?", rb"(?:[+-](?:0\d|1[0-4])[0-5]\d)?"
_DATETIME = re.compile(
    rb"\s*(\d{8})((?:" + _HOUR + rb"(?:" + _MINUTE + _SECOND + rb"?)?)?" + _FRACTION + _ZONE + rb")\s*\0?"
)
_TIME = re.compile(rb"\s*" + _HOUR + rb":?(?:" + _MINUTE + rb":?(?:" + _SECOND + rb":?)?)?" + _FRACTION + rb"\s*\0?")


@functools.lru_cache(maxsize=8192)
def shift_date(value: bytes, days: int) -> bytes | None:
    """One DA value moved by `days`; empty stays empty; `None` where it is no date."""
    if not value.strip(b" \0"):
        return b""
    match = _DATE.fullmatch(value)
    if match is None:
        return None
    try:
        moved = dt.date(int(match[1]), int(match[2]), int(match[3])) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return moved.strftime("%Y%m%d").rjust(8, "0").encode()


@functools.lru_cache(maxsize=8192)
def shift_datetime(value: bytes, days: int) -> bytes | None:
    """One DT value moved by `days`, time and zone unchanged; `None` where it has no whole date."""
    if not value.strip(b" \0"):
        return b""
    match = _DATETIME.fullmatch(value)
    if match is None:
        return None
    moved = shift_date(match[1], days)
    return None if moved is None else moved + match[2]


def keep_time(value: bytes, days: int) -> bytes | None:
    """One TM value: a shift by whole days leaves it as it is; `None` where it is no time."""
    del days
    stripped = value.strip(b" \0")
    return stripped if not stripped or _TIME.fullmatch(stripped) else None
