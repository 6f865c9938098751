"""A folder that others copy into: which of its files are finished, and which still wait.

A file waits while its name says so, while it changed less than `settle` seconds ago, and, for a day, while it is cut
short: a copy that hangs is no broken file yet. Times are those of the last change of the file or its entry, which
a copy that keeps the original's times cannot set back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from medgan.archive.memory import Outcome
from medgan.archive.place import Place
from medgan.records import QuarantineReason

_UNFINISHED: Final = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".download", ".swp", "~")
_CUT_SHORT: Final = frozenset(
    {QuarantineReason.TRUNCATED, QuarantineReason.BAD_ARCHIVE, QuarantineReason.CHANGED_WHILE_READ}
)
SETTLE_SECONDS: Final = 60
PATIENCE_SECONDS: Final = 24 * 3600


def settle_seconds(place: Place) -> int:
    """How long a file of this folder must have been left alone."""
    return place.number("settle", SETTLE_SECONDS, least=0, most=PATIENCE_SECONDS)


def waits(path: Path, settle: int) -> bool:
    """Whether somebody may still be writing this file."""
    if path.name.startswith(".") or path.name.lower().endswith(_UNFINISHED):
        return True
    return _age(path) < settle


def waits_for_its_rest(path: Path, outcomes: Sequence[Outcome]) -> bool:
    """Whether a file that was read is cut short and may yet be completed."""
    return any(outcome.reason in _CUT_SHORT for outcome in outcomes) and _age(path) < PATIENCE_SECONDS


def _age(path: Path) -> float:
    """Seconds since the file or its entry last changed."""
    try:
        status = path.lstat()
    except OSError:
        return 0.0
    now = time.time()
    # A device with a wrong clock dates its file into the future: that file would wait until then.
    past = [moment for moment in (status.st_mtime, status.st_ctime) if moment <= now]
    return now - max(past, default=now)
