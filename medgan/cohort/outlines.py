"""Outlines of masks drawn into images, for people to look at; legend N images, H rows, W columns."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

COLOURS = ((255, 176, 0), (56, 163, 255), (255, 88, 122), (60, 200, 120), (190, 130, 255), (240, 240, 90))
"""RGB of the structures in order, again from the first after the last."""
_LEAST_PX = 96


def outlined(images_NHW: npt.NDArray[np.uint8], masks_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(N, h, w, 3) uint8: grey images of 0..255 with the rim of each structure in its colour.

    Images below 96 px a side are enlarged by a whole factor, so that an outline is thin beside what it surrounds.
    """
    factor = max(1, -(-_LEAST_PX // max(images_NHW.shape[1:])))
    images, masks = (array.repeat(factor, 1).repeat(factor, 2) for array in (images_NHW, masks_NHW))
    picture = np.repeat(images[..., None], 3, axis=-1)
    rim = _rim(masks)
    for value in np.unique(masks[rim]).tolist():
        picture[rim & (masks == value)] = COLOURS[(value - 1) % len(COLOURS)]
    return picture


def legend(structures: Sequence[str]) -> str:
    """HTML: the name of each structure behind a patch of its colour."""
    colours = (COLOURS[number % len(COLOURS)] for number in range(len(structures)))
    patches = (f'<span style="color:rgb{colour}">&#9632;</span>' for colour in colours)
    return ", ".join(f"{patch} {escape(name)}" for patch, name in zip(patches, structures, strict=True))


def _rim(masks_NHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Pixels of a structure that have a neighbour of another value, or none, above, below or beside them."""
    padded = np.pad(masks_NHW, ((0, 0), (1, 1), (1, 1)))
    inside = padded[:, 1:-1, 1:-1]
    beside = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    different: npt.NDArray[np.bool_] = np.logical_or.reduce([inside != other for other in beside])
    return different & (inside > 0)
