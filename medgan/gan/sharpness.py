"""How sharp is sharp enough: the weight of what is no pixel's error, found while training instead of set.

An answer that is right on average is too smooth: of a ring of frequencies with power P it keeps p = rho^2 P. Giving all
of it back adds (1 - rho)^2 P to the square error, closing half of the gap in dB less than a third of that. So training
asks for a share of the gap that pixels alone leave, and the weight of spectrum and critic rises while the gap is wider
and falls while it is narrower: dual ascent on that constraint.
"""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor, nn

from medgan.gan.rings import RINGS

_LOOK = 20
"""Steps that measure what pixels alone leave; 20 batches of 8 windows know a ring's gap to about a tenth."""
_MEMORY, _RATE = 0.9, 0.02
_START, _MOST = 0.02, 0.5


class Balance(nn.Module):
    """Signed gap of log power by ring, (R,), of pixels alone and now, and the weight that follows; buffers alone."""

    alone: Tensor
    now: Tensor
    weight: Tensor
    steps: Tensor

    def __init__(self) -> None:
        """Nothing measured yet."""
        super().__init__()
        self.register_buffer("alone", torch.zeros(RINGS))
        self.register_buffer("now", torch.zeros(RINGS))
        self.register_buffer("weight", torch.tensor(_START))
        self.register_buffer("steps", torch.zeros(()))

    @torch.no_grad()
    def weigh(self, made_NR: Tensor, truth_NR: Tensor, share: float) -> float:
        """Take in one batch's log power (N, R); the weight for this step, 0 while pixels alone are measured."""
        gap = (made_NR - truth_NR).mean(0)
        self.steps += 1
        if self.steps <= _LOOK:
            self.alone += gap / _LOOK
            self.now.copy_(self.alone)
            return 0.0
        self.now.lerp_(gap, 1 - _MEMORY)
        excess = float(self.now.abs().mean() / (share * self.alone.abs().mean()).clamp(min=1e-6)) - 1
        self.weight.mul_(exp(_RATE * max(-1.0, min(1.0, excess)))).clamp_(max=_MOST)
        return float(self.weight)
