"""The night ledger: which number tonight has, and how it ended.

One file a night, `nights/<dataset>/NNNN.json`, written once when it begins and once when it is over. A night
that a crash left open is given again, so the rerun has the same seeds and the same timestamps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from medgan.collection import durable
from medgan.errors import Conflict, IntegrityError
from medgan.records import Night
from medgan.records.base import Record
from medgan.settings import Zones


class LedgerEntry(Record):
    """One file of the ledger."""

    night: Night
    outcome: str | None = Field(default=None, description="How it ended; empty while it is open.")


@contextmanager
def held(dataset: str, *, zones: Zones) -> Iterator[None]:
    """Keep every other run off this data set's nights while the block runs; a lock that dies with its process.

    Raises:
        Conflict: another run of this data set is alive.
    """
    folder = _folder(dataset, zones)
    with ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(folder.with_name(f".{dataset}.running"), wait=False))
        except Conflict:
            message = "another run of this data set's night is alive: wait for it, or decide it where it is paused"
            raise Conflict(message) from None
        yield


def begin(dataset: str, *, zones: Zones) -> Night:
    """The night that is open, or the next one; numbers start at 1 and have no gap."""
    folder = _folder(dataset, zones)
    with durable.locked(folder.with_name(f".{dataset}.lock")):
        entries = history(dataset, zones=zones)
        if entries and entries[-1].outcome is None:
            return entries[-1].night
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        number = entries[-1].night.number + 1 if entries else 1
        night = Night(dataset=dataset, number=number, started=started)
        durable.write_bytes(folder / _file_name(night.number), LedgerEntry(night=night).canonical())
        return night


def finish(night: Night, outcome: str, *, zones: Zones) -> None:
    """Close `night` with a short outcome such as `published`.

    Closing it again with the same outcome changes nothing.

    Raises:
        Conflict: the night is unknown, or was closed with another outcome.
    """
    folder = _folder(night.dataset, zones)
    with durable.locked(folder.with_name(f".{night.dataset}.lock")):
        path = folder / _file_name(night.number)
        entry = LedgerEntry.model_validate_json(path.read_bytes()) if path.is_file() else None
        if entry is None or entry.night != night or entry.outcome not in {None, outcome}:
            raise Conflict(f"night {night.number} is not open under this record: look at the ledger of the data set")
        if entry.outcome is None:
            durable.write_bytes(path, LedgerEntry(night=night, outcome=outcome).canonical())


def history(dataset: str, *, zones: Zones) -> list[LedgerEntry]:
    """Every night of `dataset`, oldest first."""
    found = [path for path in _folder(dataset, zones).glob("*.json") if re.fullmatch(r"[0-9]{4,9}", path.stem)]
    try:
        with durable.explained_disk():
            return [
                LedgerEntry.model_validate_json(path.read_bytes()) for path in sorted(found, key=lambda p: int(p.stem))
            ]
    except ValidationError:
        raise IntegrityError("a file of the ledger of nights is damaged: restore it from a copy") from None


def _folder(dataset: str, zones: Zones) -> Path:
    Night(dataset=dataset, number=1, started="")  # refuses a name that is no name before it becomes a path
    return zones.pseudonymised / "nights" / dataset


def _file_name(number: int) -> str:
    return f"{number:04d}.json"
