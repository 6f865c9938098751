"""The scale of a place: what strangers like an image reach, and never more than what all strangers do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medgan.privacy import policy, statistics
from medgan.privacy.evidence import Similarity, joined
from medgan.privacy.tail import TAIL, calibrate

STRICT = policy.load("strict")
COUNT = 3000
EMPTY, LIMB = 0, 1
"""Two kinds of images: strangers come near train images of the first by chance, of the second they do not."""
REACH = (1.0, 0.2)
SHARE = 0.12
"""Limbs among the strangers."""


def similarity(kinds, scores, **bands):
    """Images of two kinds, each near its place, that score the same in every band not named."""
    places = np.eye(8)[kinds] + 0.05 * np.random.default_rng(9).normal(size=(len(kinds), 8))
    return Similarity(
        bands=dict.fromkeys(TAIL, scores) | bands,
        correlation=np.zeros(len(kinds)),
        index=kinds.astype(np.int32),
        place=(places / np.linalg.norm(places, axis=1, keepdims=True)).astype(np.float32),
    )


def strangers(count, rng):
    kinds = (rng.random(count) < SHARE).astype(int)
    return similarity(kinds, rng.exponential(np.take(REACH, kinds)))


def apart(told):
    """The scale of strangers each of whom is a patient."""
    return calibrate(told, np.arange(len(told.index)).astype(object), STRICT)


def bar(scale, kind):
    """The least score at which an image of a kind is beyond the threshold."""
    grid = np.linspace(0, 20, 401)
    return grid[np.argmax(scale.hits(similarity(np.full(401, kind), grid)))]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def scale(rng):
    return apart(strangers(COUNT, rng))


@pytest.fixture
def doubled(rng):
    """Strangers of whom 150 limbs are people filed twice: each lies as near to itself as a changed copy."""
    return joined(
        similarity(np.full(2850, EMPTY), rng.exponential(0.2, 2850)),
        similarity(np.full(150, LIMB), rng.uniform(3, 4.5, 150)),
    )


def test_copies_are_found_where_strangers_stay_far_though_elsewhere_strangers_come_as_near(scale):
    near = np.full(200, 4.0)
    assert (scale.strangers.bands["E1"] > near[0]).sum() > 15
    assert scale.hits(similarity(np.full(200, LIMB), near)).all()
    assert not scale.hits(similarity(np.full(200, EMPTY), near)).any()


def test_fresh_images_of_every_kind_are_beyond_the_threshold_as_seldom_as_it_says(scale, rng):
    fresh = strangers(30_000, rng)
    hits, expected = scale.hits(fresh), len(fresh.index) * scale.above / (scale.calibrated + 1)
    assert 0.2 * expected < hits.sum() < 3 * expected  # the threshold itself rests on three strangers
    assert hits[fresh.index == EMPTY].sum() < 3 * expected


def test_people_filed_twice_hide_no_more_copies_around_them_than_one_scale_for_all_does(doubled):
    one, _ = statistics.tail_threshold(doubled.bands["E1"], quantile=STRICT.tail.quantile)
    copies = similarity(np.full(200, LIMB), np.full(200, 1.1 * one), pixels=np.zeros(200))
    assert apart(doubled).hits(copies).all()


@pytest.mark.parametrize("told", ["strangers", "doubled"])
def test_no_place_has_a_wider_scale_than_all_strangers_together(told, doubled, rng):
    scale = apart(doubled if told == "doubled" else strangers(COUNT, rng))
    for kind in (EMPTY, LIMB):
        for name in TAIL:
            middle, span = scale.pooled[name]
            beyond = np.full(200, middle + span * scale.ends[name] * scale.threshold + 1e-6)
            others = {other: np.zeros(200) for other in TAIL if other != name}
            assert scale.hits(similarity(np.full(200, kind), beyond, **others)).all()


@pytest.mark.parametrize("name", TAIL)
def test_a_copy_that_shows_in_one_band_is_found(name, rng):
    kinds = np.zeros(COUNT, int)
    units = {"E1": 1.0, "E2": 0.1, "pixels": 10.0}
    scale = apart(similarity(kinds, None, **{band: unit * rng.exponential(size=COUNT) for band, unit in units.items()}))
    shown = {band: np.full(50, 14 * unit if band == name else 0.0) for band, unit in units.items()}
    assert scale.hits(similarity(np.zeros(50, int), None, **shown)).all()


def test_a_band_that_strangers_never_reach_far_in_has_a_threshold_of_its_own(rng):
    kinds = np.zeros(COUNT, int)
    scale = apart(similarity(kinds, rng.exponential(size=COUNT), E2=rng.random(COUNT)))
    twice = similarity(np.zeros(50, int), np.zeros(50), E2=np.full(50, 2.0))
    assert scale.hits(twice).all()


def test_the_scale_of_a_place_is_no_accident_of_who_is_around(scale):
    scores = scale.scores(similarity(np.full(300, LIMB), np.full(300, 4.0)))
    assert scores.std() < 0.03 * scores.mean()


def test_a_patients_own_images_are_no_excuse_for_each_other(rng):
    others = strangers(2900, rng)
    corner = np.full((100, 8), np.eye(8)[LIMB] + 0.4 * np.eye(8)[2], np.float32) / np.float32(np.hypot(1, 0.4))
    series = replace(similarity(np.full(100, LIMB), np.full(100, 3.0)), place=corner)
    told = joined(others, series)
    patients = np.concatenate([np.arange(2900), np.full(100, 5000)]).astype(object)
    as_one = calibrate(told, patients, STRICT).own[-100:]
    as_many = apart(told).own[-100:]
    assert as_one.min() > 1.5 * as_many.max()


def test_a_place_where_nothing_varies_has_some_width_still(scale):
    flat = replace(scale.strangers, bands={name: np.where(scale.strangers.index == LIMB, 0.1, values)
                                           for name, values in scale.strangers.bands.items()})  # fmt: skip
    assert not apart(flat).hits(similarity(np.full(10, LIMB), np.full(10, 0.11))).any()


def test_where_nearly_all_strangers_score_alike_copies_are_found_still(rng):
    scores = np.where(rng.random(COUNT) < 0.92, 0, rng.exponential(size=COUNT))
    scale = apart(similarity(np.zeros(COUNT, int), scores))
    assert scale.hits(similarity(np.zeros(50, int), np.full(50, 10.0))).all()


def test_few_strangers_are_one_scale_for_all(rng):
    many, few = (apart(strangers(count, rng)) for count in (COUNT, 40))
    assert bar(many, EMPTY) > 1.6 * bar(many, LIMB)
    assert bar(few, EMPTY) < 1.3 * bar(few, LIMB)


@pytest.mark.parametrize("count", [1, 2])
def test_one_stranger_or_two_make_a_scale(count, rng):
    scale = apart(strangers(count, rng))
    assert scale.calibrated == count
    assert np.isfinite(scale.scores(strangers(100, rng))).all()
