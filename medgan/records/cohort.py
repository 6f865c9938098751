"""Records about the cohort: what is asked for, what was prepared, what was admitted."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from medgan.records.base import Handle, Name, Record, Sha256, Structure, nothing

MOST_STRUCTURES = 255
"""A mask has one byte a pixel, and 0 is what lies outside of all structures."""


class CohortRecipe(Record):
    """Which images of a collection to train on, and in which form.

    Images become `uint16` of `size_px` x `size_px`, volumes have `size_px` voxels a side; the stored affine maps them
    to [-1, 1].
    """

    name: Name = Field(description="What the cohort is called, for example chest-xray-32.")
    modalities: tuple[str, ...] = Field(description="DICOM modalities to keep, for example DX.")
    class_attribute: str = Field(description="Column that conditions the generator, for example finding.")
    covariates: tuple[str, ...] = Field(default=("sex", "age_years"), description="Further columns kept.")
    size_px: int = Field(default=32, ge=8, le=1024, description="Pixels a side that images are brought to.")
    train_fraction: float = Field(default=0.76, gt=0, lt=1, description="Share of the patients to train on.")
    holdout_fraction: float = Field(default=0.12, gt=0, lt=0.5, description="Each of the two holdouts.")
    intensity_percentiles: tuple[float, float] = Field(
        default=(0.1, 99.9), description="Percentiles of each image that become -1 and 1; both are kept."
    )
    intensity_window: tuple[float, float] | None = Field(
        default=None,
        description="Physical values that become -1 and 1 in every image (CT: -1024, 3071); no percentiles then.",
    )
    slices_per_series: int | None = Field(
        default=None, ge=1, description="Frames of each series, evenly spaced along its normal; all of them if empty."
    )
    central_fraction: float = Field(
        default=0.6, gt=0, le=1, description="Middle part of a series that these frames are taken from."
    )

    volumes: bool = Field(
        default=False, description="A volume of size_px voxels a side of every gapless series, instead of its frames."
    )
    structures: tuple[Structure, ...] = Field(
        default=(),
        max_length=MOST_STRUCTURES,
        exclude_if=nothing,
        description="Outlined structures whose masks are kept beside the images, for example left lung; where two "
        "overlap the later one counts. Images on which none of them was outlined have no mask.",
    )

    @model_validator(mode="after")
    def _volumes_are_whole(self) -> CohortRecipe:
        if self.volumes and self.slices_per_series is not None:
            message = "a recipe takes whole volumes or some slices of each series, not both"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _structures_are_flat(self) -> CohortRecipe:
        if len(set(self.structures)) < len(self.structures):
            message = "a recipe names each structure once"
            raise ValueError(message)
        if self.volumes and self.structures:
            message = "masks go beside flat images: ask for slices instead of volumes, or for no structures"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _fractions_fill_the_cohort(self) -> CohortRecipe:
        total = self.train_fraction + 2 * self.holdout_fraction
        if not math.isclose(total, 1):
            message = f"train_fraction + 2 x holdout_fraction must be 1, not {total:.3f}"
            raise ValueError(message)
        return self


class CohortSnapshot(Record):
    """A prepared cohort, split by patient before anything was trained."""

    cohort: Handle
    recipe: CohortRecipe
    collection_snapshot: str
    classes: tuple[str, ...]
    images: int = Field(ge=1)
    patients: dict[str, int] = Field(description="Patients in train, holdout-1 and holdout-2.")
    size_px: int
    duplicates_dropped: int = Field(
        default=0, ge=0, description="Images left out because another row has the same pixels."
    )
    masked: int = Field(default=0, ge=0, exclude_if=nothing, description="Images on which a structure was outlined.")
    masks_left_out: int = Field(
        default=0, ge=0, exclude_if=nothing, description="Outlines that lie on another grid than their image."
    )
    content_sha256: Sha256 = Field(description="Digest over the decoded images, their masks and the table.")


class ValidatedCohort(Record):
    """A cohort that passed admission; the only thing `gan.train` accepts. Made by `validation.admit`."""

    cohort: CohortSnapshot
    suite_sha256: Sha256
    statistics_sha256: Sha256
    expectations: int = Field(ge=1)
    warnings: tuple[str, ...] = ()
