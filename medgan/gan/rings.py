"""Power by spatial frequency as a term of a loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RINGS = 23
"""Rings of frequencies, without the mean and without corners beyond Nyquist."""


def ring_power(x_NCHW: Tensor) -> Tensor:
    """Log power (N, 23) by spatial frequency, Hann window against the frame's edges; natural logarithm."""
    height, width = x_NCHW.shape[-2:]
    window, ring, count, rings = _rings(height, width)
    centred = (x_NCHW - x_NCHW.mean((2, 3), keepdim=True)) * window
    power = torch.fft.rfft2(centred).abs().square()[:, 0].flatten(1)
    sums = power @ ring
    return torch.log(sums / count + 1e-4 * height * width / 1e3)[:, 1:rings]


_RING_CACHE: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, int]] = {}


def _rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, int]:
    if (height, width) not in _RING_CACHE:
        radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
        rings = RINGS + 1
        index = np.minimum((radius / 0.5 * rings).astype(int), rings).ravel()  # corners beyond Nyquist are one ring
        one_hot = np.zeros((index.size, rings + 1), np.float32)
        one_hot[np.arange(index.size), index] = 1
        window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
        counts = np.maximum(one_hot.sum(0), 1)
        _RING_CACHE[height, width] = (
            torch.from_numpy(window), torch.from_numpy(one_hot), torch.from_numpy(counts), rings,
        )  # fmt: skip
    return _RING_CACHE[height, width]
