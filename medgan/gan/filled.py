"""How far from what was seen a filled hole can be trusted: similarity to the truth by the distance from its rim."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.gan.measurement import SIGNAL, Image
from medgan.gan.similarity import ssim_map

GOOD = 0.85
"""Structural similarity that a filling should have."""
_DEPTHS_PX = (1, 2, 3, 4, 6, 8, 12)
_LEAST_PX = 50
"""Fewer pixels say nothing of their depth."""


def depths(hole_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(H, W) distance of each pixel to the nearest that was seen, 0 outside of the hole."""
    from scipy.ndimage import distance_transform_edt

    out: NDArray[np.float64] = distance_transform_edt(hole_HW)
    return out


def by_depth(cases: Sequence[tuple[Image, Image, NDArray[np.bool_]]]) -> dict[str, Any]:
    """Of (answer, truth, hole), each (H, W), what goes with a model.

    `depth_px` are the farthest distances of each shell, `ssim` the mean similarity of its pixels and `tissue` that of
    those that hold a signal (None where none does). `trusted_px` is the depth up to which every shell is similar by
    0.85, 0 where not even the first is: a hole twice as wide is filled well.
    """
    columns = [
        np.concatenate([np.zeros(0), *(of(*case)[case[2]] for case in cases)])
        for of in (
            lambda _, __, hole: depths(hole),
            lambda answer, truth, _: ssim_map(answer, truth),
            lambda _, truth, __: truth > SIGNAL - 1,
        )
    ]
    deep, similar, tissue = columns[0], columns[1], columns[2] > 0
    shells = [(depth, (deep > nearer) & (deep <= depth)) for nearer, depth in pairwise((0, *_DEPTHS_PX))]
    shells = [(depth, here) for depth, here in shells if here.sum() >= _LEAST_PX]
    good = takewhile(lambda shell: similar[shell[1]].mean() >= GOOD, shells)
    return {
        "depth_px": [depth for depth, _ in shells],
        "ssim": [float(similar[here].mean()) for _, here in shells],
        "tissue": [float(similar[here & tissue].mean()) if (here & tissue).any() else None for _, here in shells],
        "trusted_px": max((depth for depth, _ in good), default=0),
    }
