"""Make a release's cases like a few local ones, where the local ones themselves say that this is nearer to them.

Only what the local training cases show is used. There are three ways beside taking the whole release as it is: all of
it as the local scanner would have taken it (`acquisition`), the share of each class that looks most like local cases,
and both. Each is judged on local patients whom it was not fitted to, by the energy score (Gneiting and Raftery 2007):
the mean distance of a case to the synthetic ones of its class, less half of theirs to each other. In expectation it is
least for the distribution that the case is from, so neither a far cloud nor one that gave its variety away for nearness
wins. A way is taken where its gain is clear; else the release is taken whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.personal import acquisition
from medgan.personal.cases import Cases
from medgan.quality import features

WHOLE = "the whole release"
SCANNED, NEAREST, BOTH = "with the local acquisition", "the nearest of it", "the nearest, with the local acquisition"
WAYS = (SCANNED, NEAREST, BOTH)
_NEIGHBOURS = 3
_MOST_FOR_ENCODER, _MOST_FOR_EVIDENCE = 1500, 400
_FOLDS, _LEAST_PATIENTS = 5, 5


class Matcher:
    """A release's cases and an encoder that learned to tell them apart, once; asked for many sets of local cases."""

    def __init__(self, synthetic: Cases, *, classes: int) -> None:
        """Train the encoder on at most 1,500 synthetic cases; `classes` of 0 means that targets are numbers."""
        self.synthetic, self.classes = synthetic, classes
        shown = np.random.default_rng(0).permutation(len(synthetic))[:_MOST_FOR_ENCODER]
        groups = self._groups(synthetic)
        self.encoder = features.train(synthetic.unit[shown], groups[shown].astype(np.int64), max(classes, 1))
        self._few = synthetic.rows(np.sort(shown[:_MOST_FOR_EVIDENCE]))

    def choose(self, local: Cases, *, share: float) -> str:
        """The way that held-out patients of `local` ask for: `WHOLE`, or one of `WAYS` that is clearly better.

        In their order, a way takes the place of the one before where the mean gain over patients is more than its
        standard error (the rule of Breiman et al. 1984 for cross-validation: the simpler one, unless another is clear).
        """
        found = self.gains(local, share=share)
        best, reached = WHOLE, np.zeros(len(np.unique(local.patient)))
        for way, gain in found.items():
            more = gain - reached
            if len(gain) >= _LEAST_PATIENTS and more.mean() > more.std(ddof=1) / np.sqrt(len(more)):
                best, reached = way, gain
        return best

    def gains(self, local: Cases, *, share: float) -> dict[str, NDArray[np.float64]]:
        """By way, how much better than the whole release it explains each patient (P,), fitted to the others."""
        scores = {way: np.zeros(len(local)) for way in (WHOLE, *WAYS)}
        for seen, unseen in _folds(local.patient):
            fitted, held = local.rows(seen), local.rows(unseen)
            for way, score in scores.items():
                score[unseen] = self._energy(held, self.made(self._few, way, fitted, share=share))
        people, of = np.unique(local.patient, return_inverse=True)
        count = np.bincount(of, minlength=len(people))
        return {way: np.bincount(of, scores[WHOLE] - scores[way]) / count for way in WAYS}

    def made(self, synthetic: Cases, way: str, local: Cases, *, share: float) -> Cases:
        """Synthetic cases by a way that is fitted to `local`."""
        if way in {SCANNED, BOTH}:
            like = synthetic.unit[self._same_mix(synthetic, local)]
            there = acquisition.fit(like, local.unit)
            outlined = synthetic.target.ndim > 1  # masks lie where their images do
            target = there.moved(synthetic.target) if outlined else synthetic.target
            synthetic = replace(synthetic, unit=there(synthetic.unit), target=target)
        return self._nearest(synthetic, local, share) if way in {NEAREST, BOTH} else synthetic

    def _nearest(self, synthetic: Cases, local: Cases, share: float) -> Cases:
        """The `share` of each class that looks most like `local`."""
        strange, groups = self.strangeness(synthetic, local), self._groups(synthetic)
        kept = []
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            order = rows[np.argsort(strange[rows], kind="stable")]
            kept.append(order[: max(1, round(share * len(rows)))])
        return synthetic.rows(np.sort(np.concatenate(kept)))

    def strangeness(self, synthetic: Cases, local: Cases) -> NDArray[np.float64]:
        """(N,) mean distance of each synthetic case to its nearest local cases of its class; 0 where there are none."""
        groups, own = self._groups(synthetic), self._groups(local)
        ours, theirs = self.encoder(synthetic.unit), self.encoder(local.unit)
        out = np.zeros(len(synthetic))
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            near = theirs[own == group]
            if not len(near):
                continue  # no local case of this class: all of it stays equally strange
            out[rows] = np.sort(_distances(ours[rows], near), 1)[:, :_NEIGHBOURS].mean(1)
        return out

    def _energy(self, held: Cases, synthetic: Cases) -> NDArray[np.float64]:
        """(H,) energy score of each held-out case under the synthetic cases of its class; less is better."""
        groups, own = self._groups(synthetic), self._groups(held)
        ours, theirs = self._seen(synthetic), self._seen(held)
        out = np.zeros(len(held))
        for group in np.unique(own):
            of = ours[groups == group] if (groups == group).any() else ours
            apart = _distances(of, of).sum() / max(1, len(of) * (len(of) - 1))
            out[own == group] = _distances(theirs[own == group], of).mean(1) - apart / 2
        return out

    def _seen(self, cases: Cases) -> NDArray[np.float64]:
        """What distances are taken in."""
        return self.encoder(cases.unit)

    def _groups(self, cases: Cases) -> NDArray[Any]:
        return cases.target if self.classes else np.zeros(len(cases), np.int64)

    def _same_mix(self, synthetic: Cases, local: Cases) -> NDArray[np.int64]:
        """Rows of the synthetic cases that have the local mix of classes, as far as they go."""
        groups, own = self._groups(synthetic), self._groups(local)
        there = [one for one in np.unique(own) if (groups == one).any()]
        if not there:
            return np.arange(len(synthetic))
        most = min((groups == one).sum() / (own == one).sum() for one in there)
        rows = [np.flatnonzero(groups == one)[: max(1, int(most * (own == one).sum()))] for one in there]
        return np.concatenate(rows)


def _folds(patient_N: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit to and rows of other patients; none where there is one patient."""
    people = np.random.default_rng(0).permutation(np.unique(patient_N))
    if len(people) > 1:
        for part in np.array_split(people, min(_FOLDS, len(people))):
            held = np.isin(patient_N, part)
            yield np.flatnonzero(~held), np.flatnonzero(held)


def _distances(a_NF: NDArray[np.float64], b_MF: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) Euclidean."""
    square = (a_NF**2).sum(1)[:, None] + (b_MF**2).sum(1) - 2 * a_NF @ b_MF.T
    apart: NDArray[np.float64] = np.sqrt(np.maximum(square, 0))
    return apart
