"""The downstream model for segmentation: the outliner's network and loss, trained as all learners here are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medgan.gan import outliner
from medgan.personal.cases import Cases
from medgan.personal.learner import Network


class Segmenter(Network):
    """A U-Net that learns masks by cross entropy and soft Dice (Milletari et al. 2016) in equal parts."""

    batch = outliner.BATCH

    def __init__(self, *, structures: int, steps: int, real: int) -> None:
        """Masks have the values 0 (background) to `structures`."""
        super().__init__(steps=steps, real=real)
        self.structures = structures

    def _built(self) -> nn.Module:
        return outliner.Network(self.structures)

    def _targets(self, cases: Cases) -> Tensor:
        return torch.from_numpy(cases.target)

    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        return outliner.loss(out, target.long())

    def _scores(self, out: Tensor) -> Tensor:
        return torch.softmax(out, 1)
