"""What a report says of masks: how well the outliner outlines, whose masks its own are like, and how they look."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.cohort.masks import MASKED
from medgan.cohort.read import Cohort
from medgan.records import Measure, Outliner

Masks = NDArray[np.uint8]
_COARSE_PX, _MOST = 16, 2000


def facts(outliner: Outliner) -> dict[str, Any]:
    """What the page tells of the network that drew the masks."""
    return {
        "structures": list(outliner.structures),
        "outlines_learned_from": f"{outliner.images} images of {outliner.patients} patients",
        "outlines_judged_on": f"{outliner.holdout_images} images of {outliner.holdout_patients} holdout patients",
    }


def measures(outliner: Outliner, made_NHW: Masks, real: Cohort) -> tuple[Measure, ...]:
    """Dice of each structure on holdout patients, and how many masks are nearer to a train mask than to a holdout one.

    Of train and holdout equally many masks are looked at, so half is what an outliner reaches that copies nobody's.
    """
    found = [
        Measure(
            name=f"dice_of_{name}",
            value=value,
            reference_name="masks of real holdout images",
            better="higher",
            count=outliner.holdout_images,
        )
        for name, value in zip(outliner.structures, outliner.dice, strict=True)
        if value is not None
    ]
    ours = [_coarse(part, len(outliner.structures)) for part in (made_NHW[:_MOST], *_equally_many(real))]
    if all(len(part) for part in ours):
        made, train, held = ours
        nearer = (_nearest(made, train) < _nearest(made, held)) + 0.5 * (_nearest(made, train) == _nearest(made, held))
        found.append(
            Measure(
                name="nearest_mask_is_train",
                value=round(float(nearer.mean()), 6),
                reference=0.5,
                reference_name=f"{len(train)} masks of train, as many of holdout",
                better="closer",
                count=len(made),
            )
        )
    return tuple(found)


def _equally_many(real: Cohort) -> tuple[Masks, Masks]:
    """Masks of train and of both holdouts, evenly picked."""
    masks = np.empty((0, 1, 1), np.uint8) if real.masks is None else real.masks
    train = real.table["split"] == "train"
    rows = [np.flatnonzero((part & real.table[MASKED]).to_numpy()) for part in (train, ~train)]
    count = min(len(rows[0]), len(rows[1]), _MOST)
    picked = [part[np.linspace(0, len(part) - 1, count).astype(int)] if count else part[:0] for part in rows]
    return masks[picked[0]], masks[picked[1]]


def _coarse(masks_NHW: Masks, structures: int) -> NDArray[np.float32]:
    """(N, features): the share of each structure in each of at most 16 x 16 places."""
    side = masks_NHW.shape[-1]
    edges = np.linspace(0, side, min(side, _COARSE_PX) + 1).astype(int)[:-1]
    parts = []
    for value in range(1, structures + 1):
        inside = (masks_NHW == value).astype(np.float32)
        parts.append(np.add.reduceat(np.add.reduceat(inside, edges, 1), edges, 2).reshape(len(masks_NHW), -1))
    return np.concatenate(parts, 1)


def _nearest(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) squared distance of each of ours to the nearest of theirs; whole numbers, so that ties are told."""
    square = [np.square(part, dtype=np.float64).sum(1) for part in (ours, theirs)]
    found: NDArray[np.float64] = (square[0][:, None] + square[1][None] - 2.0 * (ours @ theirs.T)).min(1)
    return found
