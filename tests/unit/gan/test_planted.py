"""Planted lesions tell what removes and what adds; sharpness is weighed and errors are bounded as promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medgan.gan.measurement import Measurement
from medgan.gan.noise import RicianNoise
from medgan.gan.planted import at_most, plant
from medgan.gan.restore import conformal
from medgan.gan.rings import RINGS
from medgan.gan.sharpness import Balance


class Nothing(RicianNoise):
    """No degradation: what is measured is the image."""

    def measure(self, image_HW, rng):  # noqa: ARG002 - as every degradation has it
        return Measurement(seen=image_HW, shape=image_HW.shape)


class Still(Nothing):
    """The same of CT."""

    name = "low-dose"


def tissue(count=4, side=96):
    rng = np.random.default_rng(0)
    return [gaussian_filter(rng.standard_normal((side, side)), 6).astype(np.float32) for _ in range(count)]


def sure(restore):
    """A restorer that never doubts."""
    return lambda one: (restore(one), np.zeros_like(one.seen))


def with_a_disc(one):
    made = one.seen.copy()
    made[40:50, 40:50] += 0.5
    return made


@pytest.mark.parametrize(
    ("answer", "removed", "added"),
    [
        (lambda one: one.seen, 0, 0),
        (lambda one: np.full_like(one.seen, one.seen.mean()), 20, 20),
        (with_a_disc, 0, 20),
    ],
)
def test_what_removes_and_what_adds_is_counted(answer, removed, added):
    found = plant(Nothing(), tissue(), sure(answer), cases=20)
    assert found.cases == 20
    assert found.removed == removed
    assert found.added == found.unannounced == added


def test_a_lesion_brighter_than_a_file_can_hold_is_not_planted():
    bright = [np.clip(0.1 * one + 0.9, -1, 1) for one in tissue()]  # an eight-bit file keeps nothing beyond white
    assert plant(Nothing(), bright, sure(lambda one: np.clip(one.seen, -1, 1)), cases=20).removed == 0


def test_in_ct_a_lesion_of_fifty_hounsfield_units_counts():
    """Of the whole window of CT it is 1 %: what would be nothing elsewhere is a lesion lost or invented here."""
    tissue_like = [(0.01 * one - 0.45).astype(np.float32) for one in tissue()]
    counts = [
        plant(kind, tissue_like, sure(lambda one: one.seen - 0.01), cases=20).added for kind in (Still(), Nothing())
    ]
    assert counts == [0, 0]  # 20 HU are none
    assert plant(Still(), tissue_like, sure(lambda one: one.seen - 0.03), cases=20).added == 20
    assert (
        plant(Still(), tissue_like, sure(lambda one: np.full_like(one.seen, one.seen.mean())), cases=20).removed == 20
    )


def test_no_lesion_is_planted_where_there_is_only_air():
    assert plant(Nothing(), [np.full((64, 64), -1, np.float32)], sure(lambda one: one.seen), cases=5).cases == 0


@pytest.mark.parametrize(("bound", "unannounced"), [(0.4, 20), (0.6, 0)])
def test_what_is_added_where_the_bound_allows_for_it_is_announced(bound, unannounced):
    found = plant(Nothing(), tissue(), lambda one: (with_a_disc(one), np.full_like(one.seen, bound)), cases=20)
    assert (found.added, found.unannounced) == (20, unannounced)


def test_many_images_of_one_patient_say_little_of_the_next():
    count = {"cases": 40, "answer": sure(lambda one: one.seen)}
    one, four = (plant(Nothing(), tissue(), **count, patient=whose) for whose in ([7, 7, 7, 7], [3, 1, 4, 2]))
    assert (one.patients, four.patients) == (1, 4)
    assert one.removed_at_most == one.added_at_most == pytest.approx(0.95)
    assert four.removed_at_most == pytest.approx(1 - 0.05 ** (1 / 4))  # Clopper and Pearson, nothing in four


@pytest.mark.parametrize(
    ("rates", "bound"),
    [
        ([0.0] * 59, 0.04951),
        ([1.0] * 5, 1.0),
        ([], 1.0),
        ([0.1, 0.3], 0.91591),
        ([0.95], 1.0),
        ([0.97, 0.98, 0.99], 1.0),
    ],
)
def test_a_rate_is_stated_with_its_upper_bound(rates, bound):
    assert at_most(rates) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize("patients", [1, 2, 3, 48])
def test_every_rate_has_a_bound_between_itself_and_one(patients):
    rates = np.linspace(0, 1, 501)
    bounds = np.array([at_most([rate] * patients) for rate in rates])
    assert np.all(bounds >= rates)
    assert np.all(bounds <= 1)
    assert np.all(np.diff(bounds) >= 0)


@pytest.mark.parametrize("shape", [(0.05, 0.5), (0.5, 5.0), (5.0, 50.0)])
def test_a_stated_rate_holds_for_the_next_patients_however_much_they_differ(shape):
    rng, mean = np.random.default_rng(0), shape[0] / sum(shape)
    for patients in (1, 3, 12):
        rates = rng.binomial(8, rng.beta(*shape, (400, patients))) / 8
        assert np.mean([at_most(one) >= mean for one in rates]) >= 0.95


def test_the_next_score_of_the_same_kind_keeps_the_bound_as_often_as_promised():
    rng = np.random.default_rng(0)
    kept = [rng.standard_normal() <= conformal(rng.standard_normal(19), 0.9) for _ in range(2000)]
    assert 0.88 < np.mean(kept) < 0.92
    assert conformal([3.0, 1.0], 0.9) == 3.0


def batch(gap):
    truth = torch.zeros(8, RINGS)
    return truth - gap, truth


def test_sharpness_counts_for_more_while_the_spectrum_is_too_far_and_for_less_when_it_is_near():
    balance = Balance()
    looked = [balance.weigh(*batch(1.0), 0.5) for _ in range(20)]
    assert looked == [0.0] * 20
    rising = [balance.weigh(*batch(1.0), 0.5) for _ in range(30)]
    assert rising == sorted(rising)
    falling = [balance.weigh(*batch(0.1), 0.5) for _ in range(60)]
    assert falling[-1] < max(falling)
    again = Balance()
    again.load_state_dict(balance.state_dict())
    assert again.weigh(*batch(0.7), 0.5) == balance.weigh(*batch(0.7), 0.5)
