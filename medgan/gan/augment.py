"""Augmentation inside the discriminator's path: what is anatomically true, differentiable twice, deterministic.

Shift, zoom and flip are separable, so an image becomes R x C^T with one small interpolation matrix an axis (and one
more across the slices of a volume): matrix products have the second derivatives that R1 needs, which grid sampling on
CPU has not. Laterality is kept unless
`augment_flip` is set, and nothing moves by more than a tenth (a radiograph's heart stays on its side).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.gan.config import TrainConfig


class Warp:
    """Parameters of one batch of augmentations, drawn from `rng`; apply to real and fake alike.

    rows_NHH, columns_NWW: interpolation matrices, float32. gain_N, bias_N: intensity in units of the [-1, 1] range.
    """

    def __init__(self, config: TrainConfig, count: int, rng: np.random.Generator) -> None:
        """Draw for `count` images of `config.size_px`."""
        p = config.augment_p
        size = config.size_px
        self.rows_NHH = torch.from_numpy(_axis(config, count, size, rng, flip=False))
        self.columns_NWW = torch.from_numpy(_axis(config, count, size, rng, flip=config.augment_flip))
        self.gain_N = _sometimes(rng, p, count, 1 + config.augment_gain * rng.uniform(-1, 1, count), 1.0)
        self.bias_N = _sometimes(rng, p, count, config.augment_bias * rng.uniform(-1, 1, count), 0.0)
        self.slices_NDD = None
        if config.dims == 3:  # noqa: PLR2004 - volumes
            self.slices_NDD = torch.from_numpy(_axis(config, count, size, rng, flip=False))

    def map(self, change: Callable[[Tensor], Tensor]) -> Warp:
        """The warp with each of its tensors changed: moved to a device, cut to a share."""
        other = copy(self)
        for name, tensor in vars(self).items():
            setattr(other, name, None if tensor is None else change(tensor))
        return other

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Warp (N, 1, H, W) or (N, 1, D, H, W) and scale its intensities."""
        if self.slices_NDD is None:
            moved = self.rows_NHH @ x_NCHW[:, 0] @ self.columns_NWW.mT
        else:
            flat_NDQ = self.slices_NDD @ x_NCHW[:, 0].flatten(2)
            moved = flat_NDQ.view_as(x_NCHW[:, 0])
            moved = self.rows_NHH[:, None] @ moved @ self.columns_NWW.mT[:, None]
        each = (-1, *[1] * (moved.ndim - 1))
        return (moved * self.gain_N.view(each) + self.bias_N.view(each)).unsqueeze(1)


def _sometimes(rng: np.random.Generator, p: float, count: int, changed: NDArray[np.float64], same: float) -> Tensor:
    chosen = np.where(rng.random(count) < p, changed, same)
    return torch.from_numpy(chosen.astype(np.float32))


def _axis(config: TrainConfig, count: int, size: int, rng: np.random.Generator, *, flip: bool) -> NDArray[np.float32]:
    """Linear interpolation matrices (count, size, size) of a shift by whole pixels and a zoom about the centre."""
    p = config.augment_p
    reach = int(config.augment_shift * size)
    shift_N1 = np.where(rng.random(count) < p, rng.integers(-reach, reach + 1, count), 0)[:, None]
    zoom_N1 = np.where(rng.random(count) < p, 1 + config.augment_zoom * rng.uniform(-1, 1, count), 1.0)[:, None]
    centre = (size - 1) / 2
    sign_N1 = np.where(rng.random(count) < p / 2, -1.0, 1.0)[:, None] if flip else 1.0
    position_NS = np.clip((np.arange(size) - centre) * zoom_N1 * sign_N1 + centre + shift_N1, 0, size - 1)
    distance_NSS = np.abs(position_NS[:, :, None] - np.arange(size))
    weights: NDArray[np.float32] = np.maximum(0, 1 - distance_NSS).astype(np.float32)
    return weights
