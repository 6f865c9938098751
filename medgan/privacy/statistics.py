"""Exact bounds and rank tests, written for rates that are meant to be zero."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = npt.NDArray[np.floating]


def upper_rate(hits: int, count: int, *, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a rate; 0 of n gives about 3/n (Clopper & Pearson 1934)."""
    return 1.0 if hits >= count else float(stats.beta.ppf(confidence, hits + 1, count - hits))


def lower_rate(hits: int, count: int, *, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound of a rate."""
    return 0.0 if hits == 0 else float(stats.beta.ppf(1 - confidence, hits, count - hits + 1))


def tail_threshold(calibration: Scores, *, quantile: float) -> tuple[float, int]:
    """The score that a share `1 - quantile` of the calibration lies above, and how many of it do (at least one).

    The threshold is an order statistic, so that `tail_p_value` is exact.
    """
    above = max(1, int(np.floor((1 - quantile) * (len(calibration) + 1))))
    return float(np.sort(calibration)[-above]), above


def tail_p_value(hits: int, count: int, *, calibrated: int, above: int) -> float:
    """P(at least `hits` of `count` new scores reach the `above`-th largest of `calibrated` scores).

    Exact when new and calibration scores are exchangeable, whatever their distribution: the number is
    beta-binomial (a prediction interval from order statistics; Wilks 1942).
    """
    return float(stats.betabinom.sf(hits - 1, count, above, calibrated + 1 - above))


def auc(members: Scores, others: Scores) -> float:
    """Probability that a member's score is the larger; ties count half."""
    ranks = stats.rankdata(np.concatenate([members, others]))
    wins = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(wins / (len(members) * len(others)))


def auc_bounds(
    members: Scores, others: Scores, *, seed: int, confidence: float = 0.95, draws: int = 400
) -> tuple[float, float]:
    """One-sided bootstrap bounds of the AUC, lower and upper; a row is a patient, resampled within each side."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x617563]))
    order = np.sort(others)
    below = np.searchsorted(order, members, side="left")
    below_or_equal = np.searchsorted(order, members, side="right")
    estimates = np.empty(draws)
    for draw in range(draws):
        weights = np.bincount(rng.integers(0, len(order), len(order)), minlength=len(order))
        mass = np.concatenate([[0], np.cumsum(weights)])
        chosen = rng.integers(0, len(members), len(members))
        wins = 0.5 * (mass[below[chosen]] + mass[below_or_equal[chosen]])
        estimates[draw] = wins.mean() / len(order)
    lower, upper = np.quantile(estimates, (1 - confidence, confidence)).tolist()
    return lower, upper


def auc_seen(members: int, others: int) -> float:
    """The smallest AUC that a rank test at 0.05 sees nine times in ten with these counts (Noether 1987).

    1 where a side is empty.
    """
    if not members * others:
        return 1.0
    error = np.sqrt((members + others + 1) / (12 * members * others))
    return min(1.0, float(0.5 + (stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) * error))


def auc_p_value(members: Scores, others: Scores) -> float:
    """One-sided p of AUC > 1/2 by ranks (Mann-Whitney, normal with tie correction)."""
    return float(stats.mannwhitneyu(members, others, alternative="greater", method="asymptotic").pvalue)


def patient_maximum(scores: Scores, patients: npt.NDArray[np.object_]) -> Scores:
    """One score a patient, the largest of that patient's images, in order of first appearance."""
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    out = np.full(len(first), -np.inf)
    np.maximum.at(out, inverse, scores)
    return out[np.argsort(first)]
