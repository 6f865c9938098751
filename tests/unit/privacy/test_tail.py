"""The scale of a place: what strangers reach beside the train images around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medgan.privacy import policy
from medgan.privacy.evidence import Similarity, joined
from medgan.privacy.tail import TAIL, calibrate

STRICT = policy.load("strict")
EMPTY, LIMB = 0, 1
"""Two kinds of images: strangers come near train images of the first by chance, of the second they do not."""
REACH = (1.0, 0.2)
PLACES = np.array([[1, 0], [0, 1]], np.float32)


def similarity(kinds: np.ndarray, scores: np.ndarray) -> Similarity:
    """Queries of two kinds, each at its place, that score the same in every band."""
    return Similarity(
        bands=dict.fromkeys(TAIL, scores),
        correlation=np.zeros(len(kinds)),
        index=kinds.astype(np.int32),
        place=PLACES[kinds],
    )


def strangers(count: int, rng: np.random.Generator) -> Similarity:
    kinds = rng.integers(0, 2, count)
    return similarity(kinds, rng.exponential(np.take(REACH, kinds)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def scale(rng):
    return calibrate(strangers(3000, rng), np.arange(3000).astype(object), STRICT)


def test_copies_are_found_where_strangers_stay_far_though_elsewhere_strangers_come_as_near(scale):
    near = np.full(200, 4.0)
    assert (scale.strangers.bands["E1"] > near[0]).sum() > 15
    assert scale.hits(similarity(np.full(200, LIMB), near)).all()
    assert not scale.hits(similarity(np.full(200, EMPTY), near)).any()


def test_fresh_images_of_every_kind_are_beyond_the_threshold_as_seldom_as_it_says(scale, rng):
    fresh = strangers(60_000, rng)
    hits, expected = scale.hits(fresh), len(fresh.index) * scale.above / (scale.calibrated + 1)
    assert 0.2 * expected < hits.sum() < 3 * expected  # the threshold itself rests on three strangers
    assert hits[fresh.index == EMPTY].sum() < 3 * expected


def test_a_patients_own_images_are_no_excuse_for_each_other(rng):
    others = strangers(2900, rng)
    series = replace(
        similarity(np.full(100, LIMB), np.full(100, 3.0)), place=np.full((100, 2), (0.2, 0.98), np.float32)
    )
    told = joined(others, series)
    patients = np.concatenate([np.arange(2900), np.full(100, 5000)]).astype(object)
    as_one = calibrate(told, patients, STRICT).own[-100:]
    as_many = calibrate(told, np.arange(3000).astype(object), STRICT).own[-100:]
    assert as_one.min() > 2 * as_many.max()


def test_a_place_where_nothing_varies_has_some_width_still(scale):
    flat = replace(scale.strangers, bands={name: np.where(scale.strangers.index == LIMB, 0.1, values)
                                           for name, values in scale.strangers.bands.items()})  # fmt: skip
    narrow = calibrate(flat, np.arange(3000).astype(object), STRICT)
    assert not narrow.hits(similarity(np.full(10, LIMB), np.full(10, 0.11))).any()


@pytest.mark.parametrize("count", [1, 2, 40])
def test_few_strangers_are_one_scale_for_all(count, rng):
    few = strangers(count, rng)
    scale = calibrate(few, np.arange(count).astype(object), STRICT)
    assert scale.calibrated == count
    assert np.isfinite(scale.scores(strangers(100, rng))).all()
