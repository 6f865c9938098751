"""Networks of restoration: a U-Net that corrects an image and says how sure it is, and a critic of patches.

Both work at half resolution (2x2 pixels become channels), which costs a quarter and loses nothing. The generator's
last layer starts at zero, so an untrained restorer returns what it was given. Legend: N images, C channels, H, W.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, pixel_unshuffle

from medgan.gan.layers import activate, he_
from medgan.gan.sharpness import Balance

STRIDE = 8
"""Sides are padded to a multiple of this inside the network."""
_LEAST_LOG_SCALE, _MOST_LOG_SCALE = -6.0, 1.0
"""Errors from a quarter of a percent of the half window on; smaller ones would let one surprise blow up a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Size of the networks: channels of the three levels, residual blocks a level."""

    widths: tuple[int, int, int] = (32, 64, 96)
    blocks: int = 2
    critic_widths: tuple[int, ...] = (24, 48, 96)


class Block(nn.Module):
    """x + W2 a(W1 a(x)), both 3x3; W2 starts small."""

    def __init__(self, channels: int) -> None:
        """Build for `channels`."""
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        he_(self.first)
        he_(self.second, 0.2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the block's correction."""
        out: Tensor = x_NCHW + self.second(activate(self.first(activate(x_NCHW))))
        return out


class Unet(nn.Module):
    """[degraded, hole, level] (N, 3, H, W) to the correction and the log of its expected error, (N, 2, H, W)."""

    def __init__(self, shape: Shape) -> None:
        """Build three levels at 1/2, 1/4 and 1/8."""
        super().__init__()
        a, b, c = shape.widths
        self.enter = nn.Conv2d(12, a, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(i, o, 4, 2, 1) for i, o in pairwise((a, b, c))])
        self.encode = nn.ModuleList([_stage(w, shape.blocks) for w in (a, b, c)])
        self.join = nn.ModuleList([nn.Conv2d(i, o, 1) for i, o in ((c, b), (b, a))])
        self.decode = nn.ModuleList([_stage(w, shape.blocks) for w in (b, a)])
        self.leave = nn.Conv2d(a, 8, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        start = torch.tensor([0.0] * 4 + [-3.0] * 4)  # no correction; an expected error of 5 % of the half window
        self.leave.bias = nn.Parameter(start)

    def forward(self, given_N3HW: Tensor) -> Tensor:
        """Correction and log scale."""
        height, width = given_N3HW.shape[-2:]
        kept = self._encoded(given_N3HW)
        x = kept.pop()
        for join, decode in zip(self.join, self.decode, strict=True):
            x = decode(kept.pop() + interpolate(join(x), scale_factor=2.0, mode="bilinear", align_corners=False))
        out: Tensor = pixel_shuffle(self.leave(activate(x)), 2)[..., :height, :width]
        return out

    def _encoded(self, given_N3HW: Tensor) -> list[Tensor]:
        """What each level saw, finest first."""
        height, width = given_N3HW.shape[-2:]
        padded = pad(given_N3HW, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        kept = [self.encode[0](self.enter(pixel_unshuffle(padded, 2)))]
        for down, encode in zip(self.down, list(self.encode)[1:], strict=True):
            kept.append(encode(down(kept[-1])))
        return kept

    @torch.inference_mode()
    def features(self, image_HW: NDArray[np.float32]) -> NDArray[np.float64]:
        """(C,) means of the channels of all levels over an image, as if nothing were known of its degradation."""
        image = torch.from_numpy(np.ascontiguousarray(image_HW))
        given = torch.stack([image, torch.zeros_like(image), torch.zeros_like(image)])[None]
        levels = [level.mean((0, 2, 3)) for level in self._encoded(given)]
        means: NDArray[np.float64] = torch.cat(levels).double().numpy()
        return means


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(blocks)))


class PatchCritic(nn.Module):
    """[image, degraded] (N, 2, H, W) to one logit a patch of about 46 pixels, averaged to (N,) (Isola et al. 2017)."""

    def __init__(self, shape: Shape) -> None:
        """Build the ladder."""
        super().__init__()
        widths = (8, *shape.critic_widths)
        self.ladder = nn.ModuleList([nn.Conv2d(i, o, 4, 2, 1) for i, o in pairwise(widths)])
        self.judge = nn.Conv2d(widths[-1], 1, 1)
        self.balance = Balance()
        for layer in self.ladder:
            he_(layer)  # type: ignore[arg-type]

    def forward(self, pair_N2HW: Tensor) -> Tensor:
        """Logits (N,)."""
        height, width = pair_N2HW.shape[-2:]
        x = pixel_unshuffle(pad(pair_N2HW, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        for layer in self.ladder:
            x = activate(layer(x))
        logits: Tensor = self.judge(x).mean((1, 2, 3))
        return logits


def log_scale(raw_NHW: Tensor) -> Tensor:
    """The second output within what can be believed."""
    return raw_NHW.clamp(_LEAST_LOG_SCALE, _MOST_LOG_SCALE)
