"""Volumes seen as planes, for whatever looks at flat images: legend N images, D slices, H rows, W columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint16]
FLAT = 3
"""Dimensions of flat images (N, H, W); volumes (N, D, H, W) have one more."""
_MOST_PICTURED = 0.99


def middle(images: Images) -> Images:
    """(N, H, W): flat images as they are, of volumes (N, D, H, W) the middle slice of each."""
    return images if images.ndim == FLAT else images[:, images.shape[1] // 2]


def filled(volumes: Images) -> tuple[int, ...]:
    """Middle, first, third quarter of the slices that hold a picture in 99 of 100 volumes (N, D, H, W).

    A stack that is flatter than its cube has empty slices at both ends, which say nothing of anybody; () of images.
    """
    if volumes.ndim == FLAT:
        return ()
    pictured = (volumes.max((2, 3)) > volumes.min((2, 3))).mean(0) >= _MOST_PICTURED
    inside = np.flatnonzero(pictured)
    if not len(inside):
        return (volumes.shape[1] // 2,)
    return tuple(int(inside[quarter * len(inside) // 4]) for quarter in (2, 1, 3))


def several(images: Images, slices: tuple[int, ...]) -> dict[str, Images]:
    """Name -> (N, H, W): flat images as they are; of volumes these slices and the middle planes of the other axes."""
    if images.ndim == FLAT:
        return {"": images}
    _, depth, rows, columns = images.shape
    across = {f"slice {at + 1} of {depth}": images[:, at] for at in slices}
    return across | {"middle row": images[:, :, rows // 2], "middle column": images[:, :, :, columns // 2]}
