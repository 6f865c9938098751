"""The in-domain Fréchet distance while a generator trains: an encoder like the report's, trained for a quarter as long.

Its real side is the train split, so it says how far a training is and when it stands still, never how good it is: that
is for the report, on the holdout. A distance of few images is too large by a constant, so only compare it with itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medgan.gan.images import TrainingSet, to_unit
from medgan.gan.look import Judge
from medgan.quality import distance, features

_REAL = 2048
"""Real images that the encoder learns from and its features are compared with, evenly spaced; all, where fewer."""
_STEPS = 48


def in_domain(images: TrainingSet) -> Judge:
    """A judge of stored images (N, S, S), or of the middle slices of volumes, by their distance to `images`."""
    rows = np.linspace(0, len(images.pixels) - 1, min(len(images.pixels), _REAL)).round().astype(np.int64)

    def flat(stored: NDArray[np.integer]) -> NDArray[np.float32]:
        return to_unit(stored if images.dims == 2 else stored[:, stored.shape[1] // 2], images.lo, images.hi)  # noqa: PLR2004

    real_NHW = flat(images.pixels[rows])
    encoder = features.train(real_NHW, images.class_index[rows], len(images.classes), steps=_STEPS)
    known = encoder(real_NHW)
    return lambda made: distance.frechet(encoder(flat(made)), known)
