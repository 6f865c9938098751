"""How far out an image lies, on the scale of what strangers like it reach.

A margin that is nothing beside one image is a copy's beside another: an empty slice has a near stranger by chance, an
elbow has not. With one threshold for all, the kind of image that strangers come nearest to sets it for every other, and
changed copies of those are missed. So each band is first put on a local scale, by the strangers who look most like the
image in coarse form (E1): 0 is their median, 1 lies beyond it by their spread. The threshold on that scale is one order
statistic of all strangers (a normalised conformal score; Lei et al. 2018, section 5.2), so no kind of image needs
thousands of its own. A stranger's own scale is made by those of other patients, as that of a new image is.

A neighbourhood that is wide for a bad reason, such as people filed twice, would hide copies within it. So each band
is put on the one scale of all strangers as well, and what is far out on either is: a place can only lower the bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgan.privacy import statistics
from medgan.privacy.evidence import Scores, Similarity
from medgan.privacy.nearest import Patients
from medgan.privacy.policy import Policy

TAIL = ("E1", "E2", "pixels")
"""Bands that a copy may show in: the coarse form (noise), the detail (gamma, blends), the pixels (any crop or zoom)."""
LOCAL = TAIL[:2]
"""Bands with a local scale too: with the pixels, honest sets of Fashion-MNIST are refused three times as often."""
AROUND = 150
"""Strangers that make a local scale, half of them at most: with 60, fresh images of MedNIST alarm three times as often
as they should; with 300, hardly more blends are found there than on one scale for all."""
SPREAD, POOLED = 0.9, 0.5
"""The quantile that is 1 on the scale, and the share of the pooled spread in it: of 150 strangers a quantile is itself
uncertain, and with a tenth instead of half more blends are found on MedNIST and fewer on Fashion-MNIST."""
_BLOCK = 1024

Pooled = dict[str, tuple[float, float]]
"""Of each band of all strangers, the median and the spread."""
Scaled = dict[str, npt.NDArray[np.float64]]
"""(Q,) each band on the pooled scale, and by the name `around(band)` those of `LOCAL` on the local one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Scores of images against a threshold that strangers set.

    `pooled` are the median and the spread of each band of the `strangers` (n), `ends` the threshold of each on either
    scale. The score of an image is the largest of its bands beside those; `own` (n,) are the strangers' own scores,
    `threshold` the order statistic that `above` of them reach.
    """

    strangers: Similarity
    pooled: Pooled
    ends: dict[str, float]
    own: Scores
    threshold: float
    above: int

    @property
    def calibrated(self) -> int:
        """How many strangers there are."""
        return len(self.own)

    def scores(self, similarity: Similarity) -> npt.NDArray[np.float64]:
        """(Q,) one score an image."""
        return _largest(_scaled(similarity, self.strangers, self.pooled), self.ends)

    def hits(self, similarity: Similarity) -> npt.NDArray[np.bool_]:
        """(Q,) whether an image lies in the tail."""
        return self.scores(similarity) >= self.threshold


def calibrate(strangers: Similarity, patients: Patients, policy: Policy) -> Tail:
    """The threshold that strangers set: holdout-1 beside train, and train images beside the rest of it.

    `patients` (n,) are theirs.
    """
    pooled = {}
    for name in TAIL:
        middle, span = _middle_and_spread(np.sort(strangers.bands[name]))
        pooled[name] = float(middle), float(span)
    scaled = _scaled(strangers, strangers, pooled, patients)
    ends = {}
    for name, values in scaled.items():
        end, _ = statistics.tail_threshold(values, quantile=policy.tail.quantile)
        ends[name] = max(end, 1e-6)
    own = _largest(scaled, ends)
    threshold, above = statistics.tail_threshold(own, quantile=policy.tail.quantile)
    return Tail(strangers=strangers, pooled=pooled, ends=ends, own=own, threshold=threshold, above=above)


def around(name: str) -> str:
    """The name of a band on its local scale."""
    return f"{name} around"


def _middle_and_spread(
    ordered: npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The median, and from it to the quantile `SPREAD`, of scores in order along the last axis."""
    count = ordered.shape[-1]
    middle = ordered[..., count // 2].astype(np.float64)
    return middle, np.maximum(ordered[..., int(SPREAD * count)] - middle, 1e-6)


def _largest(scaled: Scaled, ends: dict[str, float]) -> npt.NDArray[np.float64]:
    largest: npt.NDArray[np.float64] = np.max([values / ends[name] for name, values in scaled.items()], axis=0)
    return largest


def _scaled(
    queries: Similarity,
    strangers: Similarity,
    pooled: Pooled,
    patients: Patients | None = None,
) -> Scaled:
    """(Q,) each: 0 at the median of all strangers, or of those around, 1 at their `SPREAD`.

    With `patients` the queries are the strangers themselves, and none of a patient's own is around.
    """
    count = max(1, min(AROUND, len(strangers.index) // 2))
    _, owners = np.unique(np.arange(0) if patients is None else patients.astype(str), return_inverse=True)
    bands = {name: values.astype(np.float64) for name, values in queries.bands.items()}
    out = {name: (bands[name] - middle) / span for name, (middle, span) in pooled.items()}
    out |= {around(name): np.empty(len(queries.index)) for name in LOCAL}
    for start in range(0, len(queries.index), _BLOCK):
        rows = slice(start, start + _BLOCK)
        alike = queries.place[rows] @ strangers.place.T
        if patients is not None:
            alike[owners[rows, None] == owners[None, :]] = -np.inf
        near = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        for name in LOCAL:
            middle, narrow = _middle_and_spread(np.sort(strangers.bands[name][near], axis=1))
            span = (1 - POOLED) * narrow + POOLED * pooled[name][1]
            out[around(name)][rows] = (bands[name][rows] - middle) / span
    return out
