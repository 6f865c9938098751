"""Records about synthetic cohorts: what is asked for, and what was made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medgan.records.base import Handle, Record, Sha256, Structure, nothing
from medgan.records.model import PrivacyBudget

Attribute = Literal["class", "sex", "age_band", "site", "view"]
ATTRIBUTE_SOURCES = {"site": ("site", "institution"), "view": ("view", "view_position")}
"""The covariates of a cohort that a released attribute comes from, first found first."""
CROSS = " x "
"""Joins the values of a joint cell: `pneumonia x F`."""
_TOLERANCE = 1e-6
_MOST_OF_A_PATIENT = 10_000


class Target(Record):
    """How the images of a cohort are to be spread over one attribute, or over several together.

    `{"of": ["sex"], "shares": {"F": 0.6}}` is 60 % women; what is left goes to the other values as in the real cohort.
    `{"of": ["class", "sex"], "counts": {"pneumonia x F": 300}}` is exactly 300 images of that cell.
    """

    of: tuple[Attribute, ...] = Field(min_length=1, max_length=5, description="Attributes: one, or several jointly.")
    shares: dict[str, float] | None = Field(default=None, description="Value (joint: `a x b`) -> share of the images.")
    counts: dict[str, int] | None = Field(default=None, description="Value (joint: `a x b`) -> images, exact.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Target:
        asked: dict[str, float] | dict[str, int] | None = self.counts if self.shares is None else self.shares
        if (self.shares is None) == (self.counts is None) or not asked:
            message = "a target gives shares or counts, one of the two, for at least one value"
            raise ValueError(message)
        if len(set(self.of)) != len(self.of):
            message = "a target names an attribute twice"
            raise ValueError(message)
        if any(len(cell.split(CROSS)) != len(self.of) for cell in asked):
            message = f"a target over {len(self.of)} attributes names cells of {len(self.of)} values, joined by ' x '"
            raise ValueError(message)
        if not all(0 <= value < float("inf") for value in asked.values()):
            message = "shares and counts must not be negative"
            raise ValueError(message)
        if self.shares is not None and sum(self.shares.values()) > 1 + _TOLERANCE:
            message = f"shares of one target must not sum to more than 1, and these sum to {sum(asked.values()):.4f}"
            raise ValueError(message)
        return self


class CohortSpec(Record):
    """What to synthesise. Whatever is not asked for follows the real training patients.

    Impossible and unsupported requests are refused before any work, with what is supported.
    """

    images: int = Field(default=2048, ge=1, le=10_000_000, strict=True, description="Synthetic images to make.")
    class_shares: dict[str, float] | None = Field(default=None, description="Class -> share, summing to 1.")
    targets: tuple[Target, ...] = Field(
        default=(), max_length=16, description="Shares or exact counts of class, sex, age band, site, view."
    )
    images_per_patient: Literal["real"] | int | dict[str, float] | None = Field(
        default=None,
        description="Images of one patient: a number, patients by number as shares summing to 1, or `real` as in the "
        "training cohort; every image is a patient's of its own if empty.",
    )
    series_length: int | None = Field(
        default=None, ge=1, description="Images of a series, in order: 1, or the depth of what a volume model makes."
    )
    like: str | None = Field(
        default=None,
        pattern=r"^(site:.{1,64}|co-[0-9a-f]{16,64})$",
        description="Whose patients to follow instead of all: `site:NAME`, or the handle of another cohort.",
    )
    attribute_epsilon: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Differential privacy of the attribute table; counts as they are if empty.",
    )
    redraw_attempts: int = Field(
        default=0, ge=0, le=16, description="Tries at images whose class the in-domain classifier does not recognise."
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Arithmetic of the generator. It decides bytes, so it is asked for, not probed."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="What chance starts from; a night adds its own.")

    @model_validator(mode="after")
    def _gives_patients_images(self) -> CohortSpec:
        asked = self.images_per_patient
        by_number = asked if isinstance(asked, dict) else {str(asked): 1.0} if isinstance(asked, int) else {"1": 1.0}
        numbers = [int(key) if key.isascii() and key.isdecimal() else 0 for key in by_number]
        if not all(1 <= number <= _MOST_OF_A_PATIENT for number in numbers) or len(set(numbers)) < len(by_number):
            message = f"a patient has 1 to {_MOST_OF_A_PATIENT} images"
            raise ValueError(message)
        shares = by_number.values()
        if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > _TOLERANCE:
            message = "shares of patients by their images must not be negative and must sum to 1"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _asks_once(self) -> CohortSpec:
        asked = [frozenset(target.of) for target in self.targets]
        if self.class_shares is not None:
            asked.append(frozenset({"class"}))
        if len(set(asked)) != len(asked):
            message = "two targets speak of the same attributes: join them into one"
            raise ValueError(message)
        for target in self.targets:
            if target.counts is not None and sum(target.counts.values()) > self.images:
                message = f"a target counts {sum(target.counts.values()):,} images of {self.images:,}"
                raise ValueError(message)
        return self


class Fidelity(Record):
    """How often the in-domain classifier sees in an image the class it was drawn for, beside real holdout images."""

    synthetic: float = Field(ge=0, le=1, description="Share of synthetic images recognised as their class.")
    real: float = Field(
        ge=0, le=1, description="The classifier's accuracy on real holdout images of the same class mix."
    )
    images: int = Field(ge=1)
    holdout: int = Field(ge=1)
    classifier_sha256: Sha256


class SyntheticCohort(Record):
    """A generated cohort in the synthetic zone."""

    synthetic: Handle
    model: Handle
    cohort: Handle
    spec: CohortSpec
    images: int
    patients: int | None = Field(default=None, ge=1, description="Synthetic patients, where images were given to any.")
    class_counts: dict[str, int]
    size_px: int
    pixel_sha256: Sha256 = Field(description="SHA-256 over the SHA-256 of every 16 decoded images, in row order.")
    labels_sha256: Sha256
    attribute_privacy: PrivacyBudget | None = Field(
        default=None, description="What the attribute table cost, where it was asked to be differentially private."
    )
    redrawn: int = Field(default=0, ge=0, description="Rows whose image is not the first that was drawn for them.")
    redrawn_from: Handle | None = Field(default=None, description="The cohort whose other rows these are.")
    fidelity: Fidelity | None = Field(default=None, description="Label fidelity, where it was measured.")
    structures: tuple[Structure, ...] = Field(
        default=(), exclude_if=nothing, description="Value k of a mask is the k-th of these; 0 is outside of all."
    )
    masks_sha256: Sha256 | None = Field(
        default=None, exclude_if=nothing, description="As `pixel_sha256`, of the masks; where there are structures."
    )

    @model_validator(mode="after")
    def _masks_have_structures(self) -> SyntheticCohort:
        if bool(self.structures) != (self.masks_sha256 is not None):
            message = "a synthetic cohort has structures and a digest of their masks, or neither"
            raise ValueError(message)
        return self
