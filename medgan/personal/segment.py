"""Masks in the comparison: moved with their images, judged by Dice a patient, shown as outlines.

Legend: N images, K structures, H rows, W columns; a mask's value k is structure k, 0 is background.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from medgan.cohort.outlines import outlined
from medgan.gan import grid
from medgan.gan.augment import Warp
from medgan.personal.cases import Cases
from medgan.personal.learner import Learner, answered

_AT_ONCE = 64
"""Images that are scored together: at 128 px each structure takes 8 MB of them."""
_PICTURED = 6


class Judge:
    """Scores learners on the test cases; keeps Dice by way and number of real cases, and the first drawings of each."""

    def __init__(self, test: Cases, structures: int) -> None:
        """Judge on `test`, whose targets are masks of `structures`."""
        self.test, self.structures = test, structures
        self.dice: defaultdict[str, defaultdict[int, list[list[float | None]]]] = defaultdict(lambda: defaultdict(list))
        self.drawn: dict[str, NDArray[np.uint8]] = {}
        self._shown = np.flatnonzero(test.target.any((1, 2)))[:_PICTURED]

    def __call__(self, learner: Learner, arm: str, count: int) -> float:
        """Mean Dice over the structures that the test shows."""
        drawn = masks_by(learner, self.test.unit, self.structures)
        found = dice(drawn, self.test.target, self.test.patient, self.structures)
        self.dice[arm][count].append([None if np.isnan(one) else float(one) for one in found])
        self.drawn.setdefault(arm, drawn[self._shown])
        return float(np.nanmean(found))

    def picture(self) -> bytes:
        """PNG: a line for the team's own outlines and one for each way's, a column a test image; fewest real cases."""
        grey = np.rint((self.test.unit[self._shown] + 1) * 127.5).astype(np.uint8)
        lines = [self.test.target[self._shown].astype(np.uint8), *self.drawn.values()]
        shown = outlined(np.tile(grey, (len(lines), 1, 1)), np.concatenate(lines))
        return grid.png(grid.tile(shown, len(grey)))


def masks_by(learner: Learner, unit_NHW: NDArray[np.float32], structures: int) -> NDArray[np.uint8]:
    """(N, H, W) uint8: the structure, or background, with the highest score at each pixel; raises as `answered`."""
    each = (1 + structures, *unit_NHW.shape[1:])
    parts = [unit_NHW[start : start + _AT_ONCE] for start in range(0, len(unit_NHW), _AT_ONCE)]
    return np.concatenate([answered(learner, part, *each).argmax(1).astype(np.uint8) for part in parts])


def dice(
    drawn_NHW: NDArray[np.uint8], truth_NHW: NDArray[np.uint8], patient_N: NDArray[np.int64], structures: int
) -> NDArray[np.float64]:
    """(K,) mean over patients of 2 |A and B| / (|A| + |B|), over all pixels of a patient's images.

    A patient in whom neither shows the structure says nothing of it; a structure that no patient has is NaN.
    """
    _, of = np.unique(patient_N, return_inverse=True)
    out = np.full(structures, np.nan)
    for value in range(1, structures + 1):
        ours, theirs = drawn_NHW == value, truth_NHW == value
        both, own, true = (np.bincount(of, weights=of_it.sum((1, 2))) for of_it in (ours & theirs, ours, theirs))
        told = own + true > 0
        if true.any():
            out[value - 1] = (2 * both[told] / (own + true)[told]).mean()
    return out


def warped(warp: Warp, masks_NHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks moved as `warp` moves their images, each pixel to the value that most of it has; intensities are not."""
    import torch

    best = torch.zeros(masks_NHW.shape)
    moved = torch.zeros(masks_NHW.shape, dtype=torch.uint8)
    for value in np.unique(masks_NHW).tolist():
        share_NHW = warp.rows_NHH @ torch.from_numpy(masks_NHW == value).float() @ warp.columns_NWW.mT
        moved[share_NHW > best] = value
        best = torch.maximum(best, share_NHW)
    out: NDArray[np.uint8] = moved.numpy()
    return out
