"""The outliner: learned from few patients' masks, the same bytes every time, and nothing of who was not outlined."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgan.cohort import read
from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import outliner
from medgan.gan.train import load, train
from medgan.records import PrivacyTarget, TrainRequest
from medgan.settings import Zones
from tests.builders.cohort import STRUCTURES
from tests.builders.model import brief_outliner


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A briefly trained model of a cohort with masks."""
    zones = Zones.under(tmp_path_factory.mktemp("outliner"))
    model, cohort = brief_outliner(zones)
    return model, read.load(cohort.cohort, zones=zones), cohort, zones


def test_structures_are_found_on_patients_that_were_not_learned_from(made):
    model, cohort, _, _ = made
    told = model.outliner
    assert told.structures == STRUCTURES
    assert min(told.dice) > 0.8
    assert told.patients == (cohort.table["split"] == "train").sum()
    assert told.holdout_images == (cohort.table["split"] != "train").sum()


def test_a_mask_depends_on_its_image_and_not_on_its_company(made):
    model, cohort, _, zones = made
    network = outliner.of_model(model, zones)
    whole = outliner.outlined(network, cohort.images[:40], cohort.attrs)
    assert np.array_equal(outliner.outlined(network, cohort.images[16:37], cohort.attrs), whole[16:37])
    assert whole.max() == len(STRUCTURES)


def test_the_same_masks_and_seed_give_the_same_weights_and_images_without_a_mask_teach_nothing(
    made, tmp_path, monkeypatch
):
    _, cohort, _, _ = made
    monkeypatch.setattr(outliner, "STEPS", 8)
    first = outliner.fit(cohort, tmp_path, seed=3)
    assert outliner.fit(cohort, tmp_path, seed=3) == first
    assert outliner.fit(cohort, tmp_path, seed=4) != first
    masked = np.arange(len(cohort.table)) % 3 > 0
    table, masks = cohort.table.assign(masked=masked), cohort.masks.copy()
    fewer = outliner.fit(dataclasses.replace(cohort, table=table), tmp_path, seed=3)
    masks[~masked] = 1
    assert outliner.fit(dataclasses.replace(cohort, table=table, masks=masks), tmp_path, seed=3) == fewer != first


def test_masks_of_fewer_than_twenty_patients_are_not_learned_from(made):
    _, cohort, _, _ = made
    rows = np.flatnonzero(cohort.table["split"] == "train")[: outliner.LEAST_PATIENTS - 1]
    few = cohort.table.assign(masked=np.isin(np.arange(len(cohort.table)), rows))
    with pytest.raises(InvalidRequest, match="19 train patients"):
        outliner.check(dataclasses.replace(cohort, table=few))


def test_a_structure_that_few_patients_show_is_neither_learned_nor_judged(made, tmp_path, monkeypatch):
    _, cohort, _, _ = made
    monkeypatch.setattr(outliner, "STEPS", 1)
    train = np.flatnonzero(cohort.table["split"] == "train")
    held = np.flatnonzero(cohort.table["split"] != "train")
    masks, judged = cohort.masks.copy(), outliner.FEWEST_JUDGED - 1
    masks[held] %= 2
    masks[held[:judged], 0, 0] = 2
    dice = outliner.fit(dataclasses.replace(cohort, masks=masks), tmp_path, seed=3).dice
    assert (dice[0] is None, dice[1]) == (False, None)
    masks[train] %= 2
    masks[train[0], 0, 0] = 2
    with pytest.raises(InvalidRequest, match="1 train patients have a mask of structure 2"):
        outliner.check(dataclasses.replace(cohort, masks=masks))


def test_masks_are_refused_under_differential_privacy(made):
    _, _, admitted, zones = made
    with pytest.raises(InvalidRequest, match="differential privacy"):
        train(admitted, TrainRequest(total_kimg=0.1, privacy=PrivacyTarget()), zones=zones)


def test_changed_weights_are_refused(made, tmp_path):
    model, _, _, zones = made
    folder = zones.pseudonymised / "models" / model.model
    weights = (folder / outliner.WEIGHTS).read_bytes()
    assert load(folder) == model
    outliner.of_model.cache_clear()
    (folder / outliner.WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError, match="outliner"):
            outliner.of_model(model, zones)
        assert load(folder) is None
    finally:
        (folder / outliner.WEIGHTS).write_bytes(weights)


def test_dice_is_told_of_what_the_truth_shows_only():
    truth = np.array([[[1, 1, 0, 0]]], np.uint8)
    found = np.array([[[1, 0, 2, 0]]], np.uint8)
    assert outliner.dice(found, truth, 2) == (pytest.approx(2 / 3, abs=1e-6), None)
