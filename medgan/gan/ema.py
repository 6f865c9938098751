"""Exponential moving average of a network, with its memory counted in images."""

from __future__ import annotations

import torch
from torch import nn

_RAMP = 0.05
"""Share of the images seen so far that the half-life may reach, so that early noise is forgotten."""


def decay(images: int, *, half_life_images: float, seen: int) -> float:
    """Weight of the past after `images` more images: 0.5^(images / half-life), the half-life ramped by `seen`."""
    half_life = min(half_life_images, seen * _RAMP)
    return 0.5 ** (images / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Average <- keep * average + (1 - keep) * network, buffers included."""
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - keep)
        else:
            mean.copy_(now)
