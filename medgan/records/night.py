"""Records of the nightly run: who it is, and what came of it."""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field

from medgan.records.archive import ScanReport
from medgan.records.base import Name, Record
from medgan.records.cohort import ValidatedCohort
from medgan.records.collection import IngestReport
from medgan.records.model import TrainedModel, TrainRequest
from medgan.records.release import Release
from medgan.records.report import PrivacyReport, QualityReport
from medgan.records.synthetic import CohortSpec, SyntheticCohort

Seeded = TypeVar("Seeded", TrainRequest, CohortSpec)


class Night(Record):
    """One night of one data set. Seeds and timestamps come from here, so a rerun makes the same bytes."""

    dataset: Name
    number: int = Field(ge=1)
    started: str = Field(description="UTC, ISO 8601, seconds.")

    def seeded(self, request: Seeded) -> Seeded:
        """`request` with this night's own seed, so that two nights draw different images."""
        return request.model_copy(update={"seed": request.seed + self.number})


class IngestOutcome(Record):
    """What the ingest flow gives: the scan's counts and the accounting of the store."""

    scan: ScanReport
    ingest: IngestReport


class TrainOutcome(Record):
    """What the train flow gives: the admitted cohort and the generator trained on it."""

    cohort: ValidatedCohort
    model: TrainedModel


class SynthesisOutcome(Record):
    """What the synthesize flow gives: the images and the evidence about them."""

    synthetic: SyntheticCohort
    quality: QualityReport
    privacy: PrivacyReport


class NightReport(Record):
    """The whole night, as the summary prints it."""

    night: Night
    ingest: IngestOutcome
    training: TrainOutcome
    synthesis: SynthesisOutcome
    release: Release
