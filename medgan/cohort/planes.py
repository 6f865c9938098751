"""Volumes seen as planes, for whatever looks at flat images: legend N images, D slices, H rows, W columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint16]
FLAT = 3
"""Dimensions of flat images (N, H, W); volumes (N, D, H, W) have one more."""


def middle(images: Images) -> Images:
    """(N, H, W): flat images as they are, of volumes (N, D, H, W) the middle slice of each."""
    return images if images.ndim == FLAT else images[:, images.shape[1] // 2]


def several(images: Images) -> dict[str, Images]:
    """Name -> (N, H, W): flat images as they are; of volumes three slices and the middle planes of the other axes."""
    if images.ndim == FLAT:
        return {"": images}
    _, depth, rows, columns = images.shape
    slices = {f"slice {at + 1} of {depth}": images[:, at] for at in (depth // 2, depth // 4, 3 * depth // 4)}
    return slices | {"middle row": images[:, :, rows // 2], "middle column": images[:, :, :, columns // 2]}
