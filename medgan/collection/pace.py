"""What an ingest costs, told before it is paid: instances, bytes, and how long, by the pace of the last one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medgan.collection import durable
from medgan.collection.staging import Batch
from medgan.records import IngestPlan, canonical_json

_BYTES_OF_WORK: Final = 512 * 1024
"""A CT image costs as much for its pixels as any instance does for its header (tests/bench/ingest_rate.py)."""
_FIRST_GUESS: Final = 0.0035  # worker seconds a unit of work: the same bench, profile basic
_LEAST_INSTANCES: Final = 64  # fewer tell how long a worker takes to start


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Worker seconds a unit of work, kept for each profile (by digest) in `path`."""

    path: Path
    profile: str

    def plan(self, batches: Sequence[Batch], *, workers: int) -> IngestPlan:
        """What is ahead, for so many workers."""
        instances, size = _measure(batches)
        seconds = _units(instances, size) * self._known().get(self.profile, _FIRST_GUESS) / workers
        return IngestPlan(instances=instances, bytes=size, batches=len(batches), expected_seconds=round(seconds, 1))

    def remember(self, batches: Sequence[Batch], *, workers: int, seconds: float) -> None:
        """Keep how long `workers` took; the next plan goes by it."""
        instances, size = _measure(batches)
        if instances >= _LEAST_INSTANCES:
            pace = round(seconds * workers / _units(instances, size), 6)
            durable.write_bytes(self.path, canonical_json(self._known() | {self.profile: pace}))

    def _known(self) -> dict[str, float]:
        known: dict[str, float] = json.loads(self.path.read_bytes()) if self.path.exists() else {}
        return known


def _measure(batches: Sequence[Batch]) -> tuple[int, int]:
    locators = [locator for batch in batches for locator in batch.locators]
    return len(locators), sum(locator.size for locator in locators)


def _units(instances: int, size: int) -> float:
    return instances + size / _BYTES_OF_WORK
