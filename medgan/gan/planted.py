"""Does restoring remove what is there, or add what is not? Lesions planted in images whose truth is known.

The rates on held-out patients go with the model, each with the bound that 95 % of such counts keep below: whoever
reads a restored image may know how often a small disc of 15 to 40 % of the window (CT: 50 to 150 HU) was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medgan.gan.measurement import Degradation, Image, Measurement

_WINDOW_PX, _STEP_PX = 128, 8
_RADIUS_PX = (3.0, 6.0)
_LEAST_DISC_PX = 5
CONFIDENCE = 0.95

Answer = Callable[[Measurement], Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """What is planted: brighter or darker by shares of the intensity window, amid what is brighter than `tissue`."""

    contrast: tuple[float, float] = (0.15, 0.4)
    tissue: float = -0.3


_BY_TASK = {"low-dose": Lesion(contrast=(50 / 4095, 150 / 4095), tissue=-150 / 2047.5 + 1024 / 2047.5 - 1)}
"""In CT's window of 4,095 HU a lesion has 50 to 150 HU, in what is denser than -150 HU: fat, soft tissue, bone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Cases, how many lesions were removed, in how many images something was added, and upper bounds of both rates."""

    cases: int
    removed: int
    added: int
    removed_at_most: float
    added_at_most: float

    def as_json(self) -> dict[str, float]:
        """For the model's description."""
        return asdict(self)


def plant(degradation: Degradation, truths: Sequence[Image], answer: Answer, *, cases: int, seed: int = 3) -> Planted:
    """Plant `cases` lesions, one each in a window of at most 128 px of `truths` (H, W) in [-1, 1], and restore.

    A lesion stays within the values that its window, or no signal and the full window, have; where it would not, it is
    planted with the other sign: what a scanner or file cannot hold nobody can restore.

    Removed: the restored image with the lesion differs from that without it, averaged over what was seen of the disc,
    by less than half of what was planted. Added: averaged over 5 x 5 px (about the smallest disc) the restored healthy
    image is wrong by half of the least contrast somewhere. Windows without tissue, and lesions of which a hole hides
    most, do not count.
    """
    rng, lesion = np.random.default_rng(seed), _BY_TASK.get(degradation.name, Lesion())
    counted = removed = added = 0
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
        clear = answer(before)
        counted += 1
        planted = ((sick - healthy) * seen).sum()
        removed += bool(((answer(after) - clear) * seen).sum() / planted < 0.5)  # noqa: PLR2004 - half
        added += bool((_means(clear - healthy) >= lesion.contrast[0]).any())
    return Planted(
        cases=counted,
        removed=removed,
        added=added,
        removed_at_most=at_most(removed, counted),
        added_at_most=at_most(added, counted),
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


def at_most(events: int, cases: int) -> float:
    """Upper one-sided 95 % bound of a rate (Clopper and Pearson 1934); 1 where nothing was tried."""
    from scipy.stats import beta

    return 1.0 if events >= cases else float(beta.ppf(CONFIDENCE, events + 1, cases - events))
