"""Records about a trained generator."""

from __future__ import annotations

from pydantic import Field

from medgan.records.base import Handle, Record, Sha256, Structure, nothing


class PrivacyTarget(Record):
    """Differential privacy with the patient as the unit: what one training may spend, and all of them together."""

    epsilon: float = Field(default=8.0, gt=0, le=100, description="What this training spends of each patient's budget.")
    delta: float | None = Field(
        default=None, gt=0, lt=0.01, description="1 / (10 x patients of the train split) if empty."
    )
    clip: float = Field(default=1.0, gt=0, description="Largest norm of one patient's gradient.")
    total_epsilon: float | None = Field(
        default=None,
        gt=0,
        description="What all trainings on the collection together may spend; as much as one spends if empty.",
    )


class TrainRequest(Record):
    """What to train. The recipe is a function of `medgan.gan.recipes`; the rest overrides it."""

    recipe: str = Field(
        default="xray_32_cpu",
        description="Name of a recipe of medgan.gan.recipes.",
        json_schema_extra={
            "examples": [
                "xray_32_cpu",
                "hands_64_cpu",
                "mr_brain_64_cpu",
                "mr_volume_32_cpu",
                "ct_volume_64_gpu",
                "ct_chest_128_gpu",
                "xray_256_gpu",
            ]
        },
    )
    seed: int = Field(default=0, ge=0, description="What chance starts from; a night adds its own number.")
    total_kimg: float | None = Field(
        default=None, gt=0, description="Thousands of real images shown; the recipe's own if empty."
    )
    patience_kimg: float = Field(
        default=0.0,
        ge=0,
        description="End once the live Fréchet distance has not fallen for so many thousand images, and keep the "
        "generator that had the least; 0 trains to the end. Not under differential privacy.",
    )
    privacy: PrivacyTarget | None = Field(
        default=None, description="Train under differential privacy; without it the generator carries no guarantee."
    )


class PrivacyBudget(Record):
    """A differential-privacy guarantee, with the accountant that derived it and what it was derived from."""

    epsilon: float = Field(gt=0, description="Of this training alone.")
    delta: float = Field(gt=0, lt=1)
    accountant: str
    unit: str = "patient"
    sigma: float | None = Field(default=None, gt=0, description="Noise in parts of the clipping norm.")
    rate: float | None = Field(default=None, gt=0, le=1, description="Chance of a patient to be drawn in a step.")
    steps: int | None = Field(default=None, ge=1)
    spent_epsilon: float | None = Field(
        default=None, gt=0, description="Of the patient who spent most, over all trainings on the collection so far."
    )
    trainings: int | None = Field(default=None, ge=1, description="Trainings on the collection so far.")


class Outliner(Record):
    """The network that draws the masks of what a generator draws; its weights lie beside the generator's.

    Dice is 2 |A and B| / (|A| + |B|) over the pixels of all images that were judged.
    """

    structures: tuple[Structure, ...] = Field(min_length=1, description="Value k of a mask is the k-th of these.")
    weights_sha256: Sha256
    patients: int = Field(ge=1, description="Train patients whose masks it learned from.")
    images: int = Field(ge=1, description="Their images that have a mask.")
    dice: tuple[float | None, ...] = Field(
        description="Of each structure on images of holdout patients; none where fewer than eleven show it."
    )
    holdout_patients: int = Field(ge=0)
    holdout_images: int = Field(ge=0)


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
    outliner: Outliner | None = Field(
        default=None, exclude_if=nothing, description="What draws masks, where the cohort has structures."
    )
