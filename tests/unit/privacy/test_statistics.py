from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from medgan.privacy import statistics


@given(st.integers(0, 50), st.integers(51, 400))
def test_bounds_are_those_of_clopper_and_pearson(hits, count):
    reference = binomtest(hits, count, alternative="less").proportion_ci(0.95, method="exact")
    assert statistics.upper_rate(hits, count) == pytest.approx(reference.high, abs=1e-9)
    reference = binomtest(hits, count, alternative="greater").proportion_ci(0.95, method="exact")
    assert statistics.lower_rate(hits, count) == pytest.approx(reference.low, abs=1e-9)


def test_nothing_found_bounds_the_rate_at_three_over_n():
    assert statistics.upper_rate(0, 2000) == pytest.approx(3 / 2000, rel=0.01)


def test_the_tail_p_value_is_exact_for_any_distribution():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(4000):
        scores = rng.standard_t(2, 700) ** 3
        threshold, above = statistics.tail_threshold(scores[:500], quantile=0.99)
        hits = int((scores[500:] >= threshold).sum())
        alarms += statistics.tail_p_value(hits, 200, calibrated=500, above=above) < 0.05
    assert 0.02 < alarms / 4000 <= 0.055


def test_a_threshold_is_an_order_statistic_even_of_few_scores():
    assert statistics.tail_threshold(np.arange(50.0), quantile=0.999) == (49.0, 1)
    assert statistics.tail_threshold(np.arange(5000.0), quantile=0.999) == (4995.0, 5)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.lists(st.integers(0, 9), min_size=2, max_size=30))
def test_auc_counts_pairs_and_ties_half(members, others):
    members, others = np.array(members, float), np.array(others, float)
    pairs = np.sign(members[:, None] - others[None, :])
    assert statistics.auc(members, others) == pytest.approx((pairs.mean() + 1) / 2)


def test_the_auc_bounds_cover_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [
        [lower <= 0.5, upper >= 0.5]
        for lower, upper in (
            statistics.auc_bounds(rng.normal(size=150), rng.normal(size=60), seed=run, draws=200) for run in range(200)
        )
    ]
    assert np.all((np.mean(covered, axis=0) >= 0.9) & (np.mean(covered, axis=0) <= 0.99))


@pytest.mark.parametrize(("members", "others"), [(30, 63), (200, 1256)])
def test_the_auc_that_is_said_to_be_seen_is_seen_nine_times_in_ten(members, others):
    apart = np.sqrt(2) * norm.ppf(statistics.auc_seen(members, others))  # of two normals with that AUC
    rng = np.random.default_rng(2)
    seen = [statistics.auc_p_value(rng.normal(apart, size=members), rng.normal(size=others)) < 0.05 for _ in range(400)]
    assert 0.86 <= np.mean(seen) <= 0.94


def test_a_patient_counts_once():
    scores = statistics.patient_maximum(np.array([1.0, 5.0, 2.0]), np.array(["b", "a", "b"], dtype=object))
    assert scores.tolist() == [2.0, 5.0]


@pytest.mark.parametrize(("members", "others"), [(0, 9), (9, 0), (0, 0)])
def test_an_empty_side_sees_nothing(members, others):
    assert statistics.auc_seen(members, others) == 1
