from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from medgan.privacy import attack, evidence, judge, policy
from medgan.privacy.views import to_view

LIMITS = policy.load("internal")
EXPOSURES, PEOPLE = 2, 240


def exposures(images: np.ndarray, seed: int) -> np.ndarray:
    """The same people on another day: another pose, breath, exposure and detector noise."""
    rng = np.random.default_rng(seed)
    size, out = images.shape[1], []
    grid = np.mgrid[:size, :size].astype(float)
    for image in images:
        bend = ndimage.zoom(rng.normal(0, 0.3, (2, 4, 4)), (1, size / 4, size / 4), order=3)
        turn = np.deg2rad(rng.uniform(-3, 3))
        middle = (size - 1) / 2
        y, x = grid[0] - middle, grid[1] - middle
        at = np.stack([np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x])
        at = at * rng.uniform(0.98, 1.02) + middle + rng.uniform(-1, 1, (2, 1, 1)) + bend
        seen = ndimage.map_coordinates(image, at, order=1, mode="nearest") ** rng.uniform(0.85, 1.15)
        out.append(np.clip(seen + rng.normal(0, 0.01, image.shape), 0, 1))
    return np.stack(out).astype(np.float32)


@pytest.fixture(scope="module")
def people(case):
    """The case's patients with two exposures each; the images of nobody else as `fresh`."""
    parts = {}
    for number, split in enumerate(("train", "holdout_1", "holdout_2")):
        images, patients = (getattr(case.real, f"{split}{what}")[:PEOPLE] for what in ("", "_patients"))
        many = [exposures(images, 10 * number + day) for day in range(EXPOSURES)]
        parts |= {split: np.concatenate(many), f"{split}_patients": np.tile(patients, EXPOSURES)}
    return evidence.RealImages(**parts)


@pytest.fixture(scope="module")
def fresh(case):
    return exposures(to_view(case.fresh[:150], (0, 65535)), 77)


def judged(found, rows):
    """G3 of some of the images that were measured."""
    some = evidence._each(lambda values: values[rows], found.synthetic)
    return judge.reidentification(replace(found, synthetic=some, synthetic_images=len(some.index)), LIMITS)


def test_new_images_of_train_patients_are_refused_and_fresh_ones_are_not(case, people, fresh):
    third_day = exposures(case.real.train[:30], 99)  # which nobody has seen
    found = evidence.collect(np.concatenate([fresh, third_day]), people, seed=0)
    honest = judged(found, slice(0, len(fresh)))
    assert not (honest.conclusive and not honest.passed)
    seen, tried = map(int, re.search(r"(\d+) of (\d+) holdout patients", honest.detail).groups())
    assert seen / tried > 0.3
    leaked = judged(found, slice(30, None))
    assert leaked.conclusive
    assert not leaked.passed
    members, others = judge._a_score_a_patient(found, "nearest", isolated=False)
    assert (len(members), len(found.member_patients)) == (PEOPLE, EXPOSURES * PEOPLE)  # patients, not images
    assert len(others) == len(set(found.other_patients))


def test_a_verification_that_recognises_nobody_decides_nothing(honest):
    blind = replace(honest, synthetic=replace(honest.synthetic, bands=honest.synthetic.bands | {"E3": np.zeros(300)}))
    calibration = replace(honest.calibration, bands=honest.calibration.bands | {"E3": honest.calibration.bands["E2"]})
    result = judge.reidentification(replace(blind, calibration=calibration, same_patient=np.zeros(50)), LIMITS)
    assert (result.passed, result.conclusive) == (False, False)


def test_too_few_patients_with_two_images_are_told(honest):
    result = judge.reidentification(honest, LIMITS)
    assert (result.passed, result.conclusive) == (False, False)
    assert "too few" in result.detail


def test_one_image_a_patient_asks_for_no_reidentification(case):
    assert not attack._several(case.real)


def test_members_are_compared_with_a_control_that_nobody_can_tell(honest):
    tests = {test.title: test for test in judge.membership(honest, LIMITS, seed=0)}
    control = tests["membership by nearest synthetic image, AUC beyond a member-only control"]
    assert control.passed
    told = replace(
        honest,
        members=honest.members | {"nearest": honest.others["nearest"].mean() + np.ones(len(honest.members["nearest"]))},
    )
    tests = {test.title: test for test in judge.membership(told, LIMITS, seed=0)}
    control = tests["membership by nearest synthetic image, AUC beyond a member-only control"]
    assert (control.passed, control.conclusive) == (False, True)
