"""Records about personalised training: what is asked for, and what was gained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medgan.records.base import Handle, Record, Sha256, nothing

Task = Literal["classification", "regression", "segmentation"]


class PersonalRequest(Record):
    """How to compare: shots are real training cases; everything is repeated with each seed."""

    task: Task = "classification"
    shots: tuple[int, ...] = Field(default=(10, 50, 200), description="Numbers of real training cases.")
    seeds: int = Field(default=5, ge=2, le=50, description="Repetitions; intervals are over them.")
    steps: int = Field(default=300, ge=1, description="Training steps of each downstream model.")
    most_synthetic: int = Field(default=2000, ge=1, description="Synthetic cases that a model trains on.")
    share: float = Field(default=0.5, gt=0, le=1, description="Share of each class that personalising keeps.")

    @model_validator(mode="after")
    def _shots_are_cases(self) -> PersonalRequest:
        if not self.shots or min(self.shots) < 1 or list(self.shots) != sorted(set(self.shots)):
            message = "shots are rising numbers of cases, 1 at least"
            raise ValueError(message)
        return self


class LocalCases(Record):
    """Real cases of a team, site or subgroup; they lie in the pseudonymised zone under their handle."""

    cases: Handle
    content_sha256: Sha256
    images: int = Field(ge=1)
    patients: int = Field(ge=1)
    classes: int = Field(
        default=0,
        ge=0,
        description="How many; 0 where the target is a number. Their names, free text, stay in the store.",
    )
    structures: int = Field(
        default=0, ge=0, exclude_if=nothing, description="How many the cases' masks outline; names stay in the store."
    )

    @property
    def task(self) -> Task:
        """What the cases are for where nobody says: their masks, where they have any, come first."""
        return "segmentation" if self.structures else "classification" if self.classes else "regression"


class ArmScore(Record):
    """One way to train with one number of real cases: mean of the metric over seeds, and its 95 % interval."""

    arm: str
    shots: int
    mean: float
    low: float
    high: float


class Gain(Record):
    """Personalised minus another arm, paired by seed, with its 95 % interval."""

    over: str
    shots: int
    mean: float
    low: float
    high: float
    verdict: Literal["gain", "no clear difference", "loss"]


class Matching(Record):
    """How often the release was matched to the local cases in one way, and with how many of them."""

    shots: int
    how: str
    seeds: int = Field(ge=1)


class PersonalReport(Record):
    """What was gained; the whole report and its page lie beside the cases."""

    release: str = Field(description="NAME@VERSION.")
    manifest_sha256: Sha256
    cases: Handle
    metric: str
    test_images: int
    test_patients: int
    scores: tuple[ArmScore, ...]
    gains: tuple[Gain, ...]
    matching: tuple[Matching, ...] = Field(description="What personalising did, by held-out patients among the cases.")
    headline: str
    report_sha256: Sha256
