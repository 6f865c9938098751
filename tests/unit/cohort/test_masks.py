"""Masks of a synthetic cohort: one byte a pixel beside the images, told and sealed by the record."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from medgan.cohort import synthetic
from medgan.errors import IntegrityError
from medgan.records import CohortRecipe, CohortSnapshot, SyntheticCohort, ValidatedCohort
from medgan.settings import Zones
from tests.builders.synthetic import synthetic_of

STRUCTURES = ("liver", "left lung")


@pytest.fixture
def zones(tmp_path) -> Zones:
    return Zones.under(tmp_path)


@pytest.fixture
def made(zones) -> tuple[SyntheticCohort, np.ndarray]:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 65536, (40, 16, 16), dtype=np.uint16)
    masks = rng.integers(0, 3, (40, 16, 16), dtype=np.uint8)
    classes = np.array(["a", "b"] * 20)
    return synthetic_of(images, classes, _cohort(), zones, masks=masks, structures=STRUCTURES), masks


def _cohort() -> ValidatedCohort:
    recipe = CohortRecipe(name="masked", modalities=("MR",), class_attribute="finding")
    snapshot = CohortSnapshot(
        cohort="co-" + "0" * 32,
        recipe=recipe,
        collection_snapshot="c@1",
        classes=("a", "b"),
        images=40,
        patients={"train": 20, "holdout-1": 10, "holdout-2": 10},
        size_px=16,
        content_sha256="0" * 64,
    )
    return ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)


def test_masks_are_read_with_their_images(zones, made):
    record, masks = made
    assert np.array_equal(synthetic.load(record, zones=zones).masks, masks)
    array = synthetic.open_masks(synthetic.folder(record.synthetic, zones=zones) / synthetic.IMAGES)
    assert (array.attrs["structures"], array.dtype, array.chunks, array.shards) == (
        list(STRUCTURES),
        np.uint8,
        (16, 16, 16),
        (1024, 16, 16),
    )


@pytest.mark.parametrize("value", [1, 3, 255])
def test_a_changed_mask_is_refused_whether_or_not_its_value_is_a_structure(zones, made, value):
    record, masks = made
    path = synthetic.folder(record.synthetic, zones=zones) / synthetic.IMAGES
    synthetic.open_masks(path, mode="r+")[7] = np.full_like(masks[7], value)
    with pytest.raises(IntegrityError):
        synthetic.load(record, zones=zones)


def test_names_that_are_not_the_records_are_refused(zones, made):
    record, _ = made
    path = synthetic.folder(record.synthetic, zones=zones) / synthetic.IMAGES
    synthetic.open_masks(path, mode="r+").attrs["structures"] = ["liver", "right lung"]
    with pytest.raises(IntegrityError, match="structures"):
        synthetic.load(record, zones=zones)


def test_a_cohort_has_structures_and_masks_or_neither(made):
    record, _ = made
    for change in ({"masks_sha256": None}, {"structures": ()}):
        with pytest.raises(ValidationError, match="neither"):
            SyntheticCohort.model_validate(record.model_dump() | change)


def test_records_without_masks_keep_the_bytes_of_old(made):
    record, _ = made
    assert b"structures" in record.canonical()
    plain = SyntheticCohort.model_validate(record.model_dump(exclude={"structures", "masks_sha256"}))
    assert not {b"structures", b"masks_sha256"} & set(plain.canonical().replace(b'"', b" ").split())
    assert b"structures" not in _cohort().canonical()


@pytest.mark.parametrize("asked", [{"structures": ("liver", "liver")}, {"structures": ("liver",), "volumes": True}])
def test_structures_that_no_mask_could_tell_are_refused(asked):
    with pytest.raises(ValidationError, match="structure"):
        CohortRecipe(name="a", modalities=("CT",), class_attribute="finding", **asked)
