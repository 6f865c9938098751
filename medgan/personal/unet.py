"""The downstream model for segmentation: a small U-Net. Legend: N images, K structures, H rows, W columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pixel_shuffle, pixel_unshuffle

from medgan.personal.cases import Cases
from medgan.personal.learner import Network

_WIDTHS = (24, 48, 64)


class Segmenter(Network):
    """A U-Net that learns masks by cross entropy and soft Dice (Milletari et al. 2016) in equal parts."""

    def __init__(self, *, structures: int, steps: int) -> None:
        """Masks have the values 0 (background) to `structures`."""
        super().__init__(steps=steps)
        self.structures = structures

    def _built(self) -> nn.Module:
        return Unet(1 + self.structures)

    def _targets(self, cases: Cases) -> Tensor:
        return torch.from_numpy(cases.target)

    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        truth_NHW = target.long()
        truth_NKHW = one_hot(truth_NHW, 1 + self.structures).movedim(-1, 1)[:, 1:].float()
        share_NKHW = torch.softmax(out, 1)[:, 1:]
        both_K = (share_NKHW * truth_NKHW).sum((0, 2, 3))
        dice_K = (2 * both_K + 1) / (share_NKHW.sum((0, 2, 3)) + truth_NKHW.sum((0, 2, 3)) + 1)
        return cross_entropy(out, truth_NHW) + (1 - dice_K).mean()

    def _scores(self, out: Tensor) -> Tensor:
        return torch.softmax(out, 1)


class Unet(nn.Module):
    """(N, 1, H, W) to (N, outputs, H, W), sides in multiples of 8; 2x2 pixels are channels at its finest level.

    That costs a quarter of a level at full resolution, and the last layer draws at full resolution again.
    """

    def __init__(self, outputs: int) -> None:
        """Build three levels at 1/2, 1/4 and 1/8."""
        super().__init__()
        a, b, c = _WIDTHS
        self.finest, self.finer, self.coarse = _stage(4, a), _stage(a, b, stride=2), _stage(b, c, stride=2)
        self.up, self.join = nn.Conv2d(c, 4 * b, 1), _stage(2 * b, b)
        self.up_again, self.join_again = nn.Conv2d(b, 4 * a, 1), _stage(2 * a, a)
        self.leave = nn.Conv2d(a, 4 * outputs, 3, padding=1)

    def forward(self, x_N1HW: Tensor) -> Tensor:
        """Scores before the softmax."""
        finest = self.finest(pixel_unshuffle(x_N1HW, 2))
        finer = self.finer(finest)
        x = self.join(torch.cat([pixel_shuffle(self.up(self.coarse(finer)), 2), finer], 1))
        x = self.join_again(torch.cat([pixel_shuffle(self.up_again(x), 2), finest], 1))
        return pixel_shuffle(self.leave(x), 2)


def _stage(before: int, width: int, *, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, step in ((before, stride), (width, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride=step, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
    return nn.Sequential(*layers)
