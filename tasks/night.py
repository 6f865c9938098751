"""The ledger of nights: which number this one has, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medgan import night
from medgan.errors import PrivacyRefused, TrainingDiverged, ValidationFailed
from medgan.records import Name, Night
from tasks import runtime

VERDICTS = (ValidationFailed, TrainingDiverged, PrivacyRefused)
"""What a rerun with the same seed would say again: the night is over, the next one has new seeds."""


@runtime.step("begin night")
def begin_night(dataset: Name) -> Night:
    """Open the next night, or the one that a killed run left open."""
    tonight = night.begin(dataset, zones=runtime.zones())
    runtime.log("night", dataset=tonight.dataset, number=tonight.number)
    return tonight


@runtime.step("finish night")
def finish_night(tonight: Night, outcome: str) -> None:
    """Write down how the night ended."""
    night.finish(tonight, outcome, zones=runtime.zones())
    runtime.log("night over", dataset=tonight.dataset, number=tonight.number, outcome=outcome)


@contextmanager
def ledger(dataset: Name) -> Iterator[Night]:
    """Yield tonight, and keep other runs off it.

    A verdict closes the night; anything else leaves it open, so that a rerun resumes it.
    """
    runtime.give_up_when_it_dies_too_often()
    with night.held(dataset, zones=runtime.zones()):
        tonight = begin_night(dataset)
        try:
            yield tonight
        except VERDICTS as verdict:
            finish_night(tonight, verdict.kind)
            raise
        finish_night(tonight, "published")
