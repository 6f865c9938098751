"""Make a release's cases like a few local ones: their intensities, and those nearest to them in an encoder's eyes.

Only what the local training cases show is used. Intensities are mapped by a monotone curve that takes the synthetic
quantiles to the local ones (a scanner's gamma, a window); then, class by class, the cases are kept whose features lie
nearest to local cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.personal.cases import Cases
from medgan.quality import features

_KNOTS = np.linspace(0, 1, 33)
_NEIGHBOURS = 3
_FEW = 20
"""With fewer local cases quantiles are noisy: the curve is drawn towards the identity in proportion."""
_MOST_FOR_ENCODER = 1500


class Matcher:
    """A release's cases and an encoder that learned to tell them apart, once; asked for many sets of local cases."""

    def __init__(self, synthetic: Cases, *, classes: int) -> None:
        """Train the encoder on at most 1,500 synthetic cases; `classes` of 0 means that targets are numbers."""
        self.synthetic, self.classes = synthetic, classes
        shown = np.random.default_rng(0).permutation(len(synthetic))[:_MOST_FOR_ENCODER]
        groups = self._groups(synthetic)
        self.encoder = features.train(synthetic.unit[shown], groups[shown].astype(np.int64), max(classes, 1))

    def _groups(self, cases: Cases) -> NDArray[Any]:
        return cases.target if self.classes else np.zeros(len(cases), np.int64)

    def personalise(self, local: Cases, *, share: float) -> Cases:
        """The `share` of each class that looks most like `local`, with local intensities."""
        unit = harmonise(self.synthetic.unit, local.unit)
        matched = Cases(unit=unit, target=self.synthetic.target, patient=self.synthetic.patient)
        strange, groups = self.strangeness(matched, local), self._groups(matched)
        kept = []
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            order = rows[np.argsort(strange[rows], kind="stable")]
            kept.append(order[: max(1, round(share * len(rows)))])
        return matched.rows(np.sort(np.concatenate(kept)))

    def strangeness(self, matched: Cases, local: Cases) -> NDArray[np.float64]:
        """(N,) mean distance of each synthetic case to its nearest local cases of its class; 0 where there are none."""
        groups, own = self._groups(matched), self._groups(local)
        ours, theirs = self.encoder(matched.unit), self.encoder(local.unit)
        out = np.zeros(len(matched))
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            near = theirs[own == group]
            if not len(near):
                continue  # no local case of this class: all of it stays equally strange
            out[rows] = _nearest(ours[rows], near, min(_NEIGHBOURS, len(near)))
        return out


def harmonise(unit_NHW: NDArray[np.float32], local_NHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Monotone map of intensities that takes pooled quantiles of one set to those of the other, both in [-1, 1]."""
    ours, theirs = (np.quantile(x, _KNOTS) for x in (unit_NHW, local_NHW))
    trust = len(local_NHW) / (len(local_NHW) + _FEW)
    goal = trust * theirs + (1 - trust) * ours
    steps = np.maximum.accumulate(ours + 1e-6 * np.arange(len(ours)))  # np.interp wants rising places
    return np.interp(unit_NHW, steps, goal).astype(np.float32)


def _nearest(a_NF: NDArray[np.float64], b_MF: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(N,) mean distance of rows of `a` to their `k` nearest rows of `b`."""
    square = (a_NF**2).sum(1)[:, None] + (b_MF**2).sum(1) - 2 * a_NF @ b_MF.T
    nearest = np.sort(np.sqrt(np.maximum(square, 0)), axis=1)[:, :k]
    mean: NDArray[np.float64] = nearest.mean(1)
    return mean
