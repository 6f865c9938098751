"""Whom a generator learned from, stage by stage: its own cohort, then that of the model it was adapted from, and so on.

An adapted generator may still make images of its base's patients, and nobody says that the base ever faced a gate. So
each stage is attacked as if it were the only one: its train split beside its own holdouts. Patients whom another stage
learned from are no strangers: they score like members and would hide a leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgan.cohort import planes, read, stored
from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import level
from medgan.privacy.evidence import RealImages
from medgan.privacy.views import StoredViews, Views
from medgan.records import CohortSnapshot, TrainedModel
from medgan.settings import Zones

_MOST_BASES = 8
_SPLITS = (("train", "train"), ("holdout-1", "holdout_1"), ("holdout-2", "holdout_2"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A cohort that was learned from.

    `name` for titles, empty of the model's own; the `slices` of volumes that are looked at; plane -> its real images in
    `real`; patients and images by split in `counts`.
    """

    name: str
    slices: tuple[int, ...]
    real: dict[str, RealImages]
    counts: dict[str, int]


def stages(model: str, cohort: CohortSnapshot, *, zones: Zones) -> list[Stage]:
    """The model's own `cohort` and those of its bases, nearest first, strangers to all of them in the holdouts.

    Raises:
        InvalidRequest: a split without images or without strangers; a base that is gone.
        IntegrityError: a cohort that is not what its record says; bases without end.
    """
    cohorts = [read.load(cohort, zones=zones), *_of_bases(model, zones=zones)]
    slices = planes.filled(cohorts[0].split("train")[0])
    found = []
    for number, one in enumerate(cohorts):
        others = [_train_patients(other) for other in cohorts if other is not one]
        real, counts = real_images(one, frozenset().union(*others), slices=slices)
        name = "" if not number else "base" if len(cohorts) == 2 else f"base {number}"  # noqa: PLR2004 - its only base
        found.append(Stage(name=name, slices=slices, real=real, counts=counts))
    return found


def real_images(
    cohort: read.Cohort, known: frozenset[str] = frozenset(), *, slices: tuple[int, ...] = ()
) -> tuple[dict[str, RealImages], dict[str, int]]:
    """Plane -> views and patients of the three splits; and how many there are. `known` are left out of the holdouts."""
    parts: dict[str, Any] = {}
    planes_of: dict[str, dict[str, Views]] = {}
    counts = {}
    for split, field in _SPLITS:
        images, _, table = cohort.split(split)
        if not len(images):
            raise InvalidRequest(f"the cohort has no image in {split}: the gate needs all three splits")
        if split != "train" and known:
            fresh = ~table["patient_key"].isin(known).to_numpy()
            if not fresh.any():
                raise InvalidRequest(
                    f"an adapted model learned, before or after, from every patient of a {split}: nobody is left to "
                    "compare with. Split the site's cohort as the base's was"
                )
            images, table = images[fresh], table[fresh]
        planes_of[field] = views(images, cohort.attrs, slices)
        parts[f"{field}_patients"] = table["patient_key"].to_numpy(dtype=object)
        counts[f"{split} patients"] = int(table["patient_key"].nunique())
        counts[f"{split} images"] = len(images)
    names = planes_of["train"]
    return {name: RealImages(**parts | {field: of[name] for field, of in planes_of.items()}) for name in names}, counts


def views(images: npt.NDArray[np.uint16], attrs: dict[str, Any], slices: Sequence[int]) -> dict[str, Views]:
    """Plane -> its views, in the order of `planes.several`: one of flat images, several of volumes."""
    low, high = (float(value) for value in attrs["intensity_range"])
    return {name: StoredViews(plane, (low, high)) for name, plane in planes.several(images, tuple(slices)).items()}


def _of_bases(model: str, *, zones: Zones) -> list[read.Cohort]:
    """Cohorts that the models behind an adapted one learned from."""
    found: list[read.Cohort] = []
    handle = level.base_of(model, zones=zones)
    while handle is not None:
        if len(found) == _MOST_BASES:
            raise IntegrityError(f"a model is adapted from more than {_MOST_BASES} others: train one afresh")
        found.append(read.load(_trained_on(handle, zones=zones), zones=zones))
        handle = level.base_of(handle, zones=zones)
    return found


def _trained_on(model: str, *, zones: Zones) -> str:
    """Handle of the cohort that the stored model was trained on; without its description its own base is unknown."""
    folder = zones.pseudonymised / "models" / model
    base = stored.record(folder / "model.json", TrainedModel)
    if base is None or not level.is_described(folder):
        raise InvalidRequest(
            "the model that this one was adapted from is gone, and copies of its patients cannot be seen"
        )
    return base.cohort


def _train_patients(cohort: read.Cohort) -> frozenset[str]:
    return frozenset(cohort.split("train")[2]["patient_key"])
