"""What a tick looks at: images of the moving average, always from the same latents, and what they tell.

A run under differential privacy looks at generated images only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.gan import conditions, spectrum
from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet, indices, to_stored
from medgan.gan.step import Players

Judge = Callable[[NDArray[np.uint16]], float]
"""How far stored images (N, S, S), or volumes (N, S, S, S), lie from real ones: lower is better."""
Watch = Callable[[TrainingSet], Judge]
"""Makes a judge of a training set, once a run."""

GRID_SIDE = 8
_JUDGED = 256
"""Images a judge sees: always of the same latents, so that a distance moves with the weights only."""
_POLISHED_BY, _POLISHED_PIXELS = 2048, 1 << 25
"""Images that the last filter is set by, fewer where they are large (128 MB of float32); no more than the run saw."""
_BATCH = 64
_PREVIEW, _POLISH, _JUDGE = range(3)


def _drawn(config: TrainConfig, players: Players, c: NDArray[Any], stream: int) -> Tensor:
    """Images (N, 1, ...) of the moving average under conditions `c`, from the latents of one of three streams."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, (1 << 62) + stream]))
    z_NZ = torch.from_numpy(rng.standard_normal((len(c), config.latent_dim), dtype=np.float32))
    with torch.inference_mode():
        parts = zip(torch.split(z_NZ, _BATCH), torch.split(torch.from_numpy(c), _BATCH), strict=True)
        return torch.cat([players.average(z.to(config.device), c.to(config.device)) for z, c in parts])


def _as_trained(config: TrainConfig, images: TrainingSet, count: int) -> NDArray[Any]:
    """Conditions of `count` real images."""
    rows = indices(0, count, len(images.class_index), config.seed)
    return conditions.joined(images.class_index[rows], images.features[rows])


def preview(config: TrainConfig, players: Players, images: TrainingSet) -> NDArray[np.uint16]:
    """Stored 64 images, rows cycling through the classes."""
    count = GRID_SIDE**2
    classes = np.arange(count) // GRID_SIDE % len(images.classes)
    shown = indices(0, count, len(images.class_index), config.seed)  # any real images' conditions
    made = _drawn(config, players, conditions.joined(classes, images.features[shown]), _PREVIEW)
    return to_stored(made[:, 0].cpu().numpy(), images.lo, images.hi)


def judged(config: TrainConfig, players: Players, images: TrainingSet, judge: Judge) -> float:
    """What `judge` says of the moving average's images under the training set's own conditions."""
    made = _drawn(config, players, _as_trained(config, images, _JUDGED), _JUDGE)
    return judge(to_stored(made[:, 0].cpu().numpy(), images.lo, images.hi))


def polish(config: TrainConfig, players: Players, images: TrainingSet) -> None:
    """Set the average's filter by images drawn under the training set's own conditions."""
    affordable = max(64, _POLISHED_PIXELS // config.size_px**config.dims)
    count = min(_POLISHED_BY, affordable, config.total_steps * config.batch)
    made = _drawn(config, players, _as_trained(config, images, count), _POLISH)
    with torch.inference_mode():
        spectrum.calibrate(cast("spectrum.Polish", players.average.polish), made, images.ring_power)


def relative_spread(made_NHW: NDArray[np.uint16], images: TrainingSet | None) -> float:
    """Mean deviation of a pixel over generated images, divided by the same over as many real ones.

    Without `images` (a private run may not look) the plain deviation in parts of uint16's range.
    """
    made = float(made_NHW.astype(np.float64).std(0).mean())
    if images is None:
        return made / 65535
    rows = np.linspace(0, len(images.class_index) - 1, len(made_NHW)).round().astype(np.int64)
    real = float(np.asarray(images.pixels[rows], np.float64).std(0).mean())
    return made / real if real else 1.0
