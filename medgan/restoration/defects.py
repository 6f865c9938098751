"""Where nothing was seen: dropped lines and blind patches of an image, found by their being exactly constant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_PATCH_PX = 16
"""Smaller constant patches occur in sound images."""
_MOST_SHARE = 0.5
_STEP = 0.1
"""A patch is a defect when its rim differs from it by a tenth of the window: anatomy fades into air, defects do not."""


def find(values_HW: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """(H, W) True on dropped rows and columns and on enclosed patches at the image's lowest or highest value.

    None where there is no defect, or where most of the image would be one.
    """
    from scipy import ndimage

    lo, hi = float(values_HW.min()), float(values_HW.max())
    if not hi > lo:
        return None
    hole = _lines(values_HW) | _lines(values_HW.T).T
    for extreme in (lo, hi):
        labels, count = ndimage.label(values_HW == extreme)
        outside = set(np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])))
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            patch = labels[box] == number
            if number in outside or patch.sum() < LEAST_PATCH_PX or number > count:
                continue
            around = tuple(slice(max(0, one.start - 1), one.stop + 1) for one in box)
            own = labels[around] == number
            rim = ndimage.binary_dilation(own) & ~own
            if np.abs(values_HW[around][rim] - extreme).min() > _STEP * (hi - lo):
                hole[around] |= own
    return hole if hole.any() and hole.mean() <= _MOST_SHARE else None


def _lines(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows that are constant at the lowest value while both neighbours are not."""
    flat = (values == values.min()).all(1)
    busy = ~flat
    dropped = np.zeros(len(values), bool)
    dropped[1:-1] = flat[1:-1] & busy[:-2] & busy[2:]
    return np.broadcast_to(dropped[:, None], values.shape).copy()
