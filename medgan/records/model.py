"""Records about a trained generator."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Handle, Record, Sha256


class TrainRequest(Record):
    """What to train. The recipe is a function of `medgan.gan.recipes`; the rest overrides it."""

    recipe: str = Field(default="xray_32_cpu", description="Name of a recipe of medgan.gan.recipes.")
    seed: int = Field(default=0, ge=0)
    total_kimg: float | None = Field(
        default=None, gt=0, description="Thousands of real images shown; the recipe's own if empty."
    )


class PrivacyBudget(Record):
    """A differential-privacy guarantee, with the accountant that derived it."""

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    accountant: str
    unit: str = "patient"


class TrainedModel(Record):
    """A finished generator; weights lie in the pseudonymised zone under `model`."""

    model: Handle
    cohort: Handle
    collection_snapshot: str
    config_sha256: Sha256
    generator_sha256: Sha256
    classes: tuple[str, ...]
    size_px: int
    kimg: float
    seconds: float = Field(ge=0, description="Wall time of training, resumes included.")
    privacy: PrivacyBudget | None = None
