"""Does restoring remove what is there, or add what is not? Lesions planted in images whose truth is known.

The rates on held-out patients go with the model, each with the bound that 95 % of such counts keep below: whoever
reads a restored image may know how often a small disc of 15 to 40 % of the window (CT: 50 to 150 HU) was lost. Images
of one patient are alike, so a bound counts patients: of a single one it says next to nothing about the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from medgan.gan.measurement import Degradation, Image, Measurement

_WINDOW_PX, _STEP_PX = 128, 8
_RADIUS_PX = (3.0, 6.0)
_LEAST_DISC_PX = 5
CONFIDENCE = 0.95

Answer = Callable[[Measurement], tuple[Image, Image]]
"""The restored image and the bound of its error, both (H, W)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """What is planted: brighter or darker by shares of the intensity window, amid what is brighter than `tissue`."""

    contrast: tuple[float, float] = (0.15, 0.4)
    tissue: float = -0.3


_BY_TASK = {"low-dose": Lesion(contrast=(50 / 4095, 150 / 4095), tissue=-150 / 2047.5 + 1024 / 2047.5 - 1)}
"""In CT's window of 4,095 HU a lesion has 50 to 150 HU, in what is denser than -150 HU: fat, soft tissue, bone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """How many lesions were removed, in how many images something was added, and where the error's bound hid that.

    `unannounced` are the images with an addition larger than the bound of the error there. Each comes with the upper
    95 % bound of its rate in images of a patient who was not looked at.
    """

    cases: int
    patients: int
    removed: int
    added: int
    unannounced: int
    removed_at_most: float
    added_at_most: float
    unannounced_at_most: float

    def as_json(self) -> dict[str, float]:
        """For the model's description."""
        return asdict(self)


def plant(
    degradation: Degradation,
    truths: Sequence[Image],
    answer: Answer,
    *,
    cases: int,
    patient: Sequence[int] | None = None,
    seed: int = 3,
) -> Planted:
    """Plant `cases` lesions, one each in a window of at most 128 px of `truths` (H, W) in [-1, 1], and restore.

    `patient` says whose each truth is; without it all are one patient's. A lesion stays within the values that its
    window, or no signal and the full window, have; where it would not, it is planted with the other sign: what a
    scanner or file cannot hold nobody can restore.

    Removed: the restored image with the lesion differs from that without it, averaged over what was seen of the disc,
    by less than half of what was planted. Added: averaged over 5 x 5 px (about the smallest disc) the restored healthy
    image is wrong by half of the least contrast somewhere; unannounced, where this also exceeds the mean of the error's
    bound over these pixels. Windows without tissue, and lesions of which a hole hides most, do not count.
    """
    rng, lesion = np.random.default_rng(seed), _BY_TASK.get(degradation.name, Lesion())
    whose: list[int] = []
    found: list[tuple[bool, bool, bool]] = []
    for case in range(cases):
        drawn = _window(truths[case % len(truths)], degradation.factor, lesion, rng)
        if drawn is None:
            continue
        healthy, disc = drawn
        sick = _with_lesion(healthy, disc, float(rng.choice([-1, 1])) * 2 * rng.uniform(*lesion.contrast))
        before, after = (degradation.measure(one, np.random.default_rng(case)) for one in (healthy, sick))
        seen = disc if before.hole is None else disc * ~before.hole
        if 2 * seen.sum() < disc.sum():
            continue
        clear, bound = answer(before)
        planted = ((sick - healthy) * seen).sum()
        removed = ((answer(after)[0] - clear) * seen).sum() / planted < 0.5  # noqa: PLR2004 - half
        wrong = _means(clear - healthy)
        added = wrong >= lesion.contrast[0]
        found.append((bool(removed), bool(added.any()), bool((added & (wrong > _means(bound))).any())))
        whose.append(0 if patient is None else int(patient[case % len(truths)]))
    return _counted(np.array(found, bool).reshape(-1, 3), np.array(whose, np.int64))


def _counted(found_N3: NDArray[np.bool_], patient_N: NDArray[np.int64]) -> Planted:
    patients = np.unique(patient_N)
    rates = np.array([found_N3[patient_N == one].mean(0) for one in patients]).reshape(-1, 3)
    removed, added, unannounced = (int(count) for count in found_N3.sum(0))
    bounds = [at_most(rates[:, kind]) for kind in range(3)]
    return Planted(
        cases=len(found_N3),
        patients=len(patients),
        removed=removed,
        added=added,
        unannounced=unannounced,
        removed_at_most=bounds[0],
        added_at_most=bounds[1],
        unannounced_at_most=bounds[2],
    )


def _window(
    truth: Image, factor: int, lesion: Lesion, rng: np.random.Generator
) -> tuple[Image, NDArray[np.float64]] | None:
    """A window about a place in tissue, and a soft disc there in [0, 1]."""
    from scipy.ndimage import uniform_filter

    tissue = np.argwhere(uniform_filter(truth, 13) > lesion.tissue)
    if not len(tissue):
        return None
    place = tissue[rng.integers(len(tissue))]
    step = max(factor, _STEP_PX)
    sides = [min(_WINDOW_PX, side // step * step) for side in truth.shape]
    corner = [
        int(np.clip(at - side // 2, 0, whole - side)) for at, side, whole in zip(place, sides, truth.shape, strict=True)
    ]
    window = truth[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]]
    rows, columns = np.ogrid[: sides[0], : sides[1]]
    distance = np.hypot(rows - (place[0] - corner[0]), columns - (place[1] - corner[1]))
    return window, np.clip(rng.uniform(*_RADIUS_PX) + 0.5 - distance, 0, 1)


def _with_lesion(healthy: Image, disc: NDArray[np.float64], contrast: float) -> Image:
    """The window with a disc of a contrast or, where there is more room, of the opposite one."""
    low, high = min(-1.0, float(healthy.min())), max(1.0, float(healthy.max()))
    both = [np.clip(healthy + sign * contrast * disc, low, high) for sign in (1, -1)]
    kept = [float((np.abs(one - healthy) * disc).sum()) for one in both]
    return both[int(kept[1] > 1.01 * kept[0])].astype(np.float32)


def _means(error_HW: Image) -> Image:
    """Absolute means over about the smallest disc."""
    from scipy.ndimage import uniform_filter

    out: Image = np.abs(uniform_filter(error_HW, _LEAST_DISC_PX))
    return out


def at_most(rates_P: Sequence[float] | NDArray[np.float64]) -> float:
    """Upper one-sided 95 % bound of a rate, from the rates (P,) in [0, 1] of P patients; 1 where there is none.

    It holds for the mean over all patients such as these, however much they differ: the largest for which Chernoff's
    bound leaves the observed mean of P, or less, 5 % (Hoeffding 1963, theorem 1, for values in [0, 1]). Where nothing
    happened it is Clopper and Pearson's, 1 - 0.05^(1/P).
    """
    from scipy.optimize import brentq

    if not len(rates_P) or (mean := float(np.mean(rates_P))) >= 1:
        return 1.0
    allowed, most = -log(1 - CONFIDENCE) / len(rates_P), 1 - 1e-12
    if _divergence(mean, most) <= allowed:  # the bound lies nearer to 1 than anybody reads
        return 1.0
    return float(brentq(lambda rate: _divergence(mean, rate) - allowed, mean, most))


def _divergence(mean: float, rate: float) -> float:
    """Kullback and Leibler's, of coins with these two rates; `rate` below 1."""
    happened = mean * log(mean / rate) if mean > 0 else 0.0
    return happened + (1 - mean) * log((1 - mean) / (1 - rate))
