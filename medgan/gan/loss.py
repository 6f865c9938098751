"""Adversarial games and gradient penalties: pure functions of logits, one line an idea.

real_N, fake_N: logits of D on real and generated images, float32, paired (same condition at the same place).
Every function returns a scalar tensor to be minimised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Game = Callable[[Tensor, Tensor], Tensor]


class Loss(NamedTuple):
    """What each player minimises, given (real_N, fake_N)."""

    discriminator: Game
    generator: Game


def _classic_d(real_N: Tensor, fake_N: Tensor) -> Tensor:
    return softplus(-real_N).mean() + softplus(fake_N).mean()  # Goodfellow et al. 2014, eq. 1


LOSSES: dict[str, Loss] = {
    # Jolicoeur-Martineau 2018 (relativistic pairing), as used by Huang et al., NeurIPS 2024
    "r3": Loss(lambda real, fake: softplus(fake - real).mean(), lambda real, fake: softplus(real - fake).mean()),
    "gan-minimax": Loss(_classic_d, lambda _, fake: -softplus(fake).mean()),  # eq. 1: saturates
    "gan-ns": Loss(_classic_d, lambda _, fake: softplus(-fake).mean()),  # section 3: non-saturating
    # Arjovsky et al. 2017, algorithm 1 (with clipping), Gulrajani et al. 2017 (with the gradient penalty)
    "wgan-clip": Loss(lambda real, fake: fake.mean() - real.mean(), lambda _, fake: -fake.mean()),
    "wgan-gp": Loss(lambda real, fake: fake.mean() - real.mean(), lambda _, fake: -fake.mean()),
    # Lim and Ye 2017; Miyato et al. 2018
    "hinge": Loss(lambda real, fake: (relu(1 - real) + relu(1 + fake)).mean(), lambda _, fake: -fake.mean()),
}


def squared_gradients(logits_N: Tensor, *images_NCHW: Tensor) -> tuple[Tensor, ...]:
    """|grad_x D(x)|^2 of each image of each batch, differentiable once more (Mescheder et al. 2018: R1 on real, R2)."""
    gradients = torch.autograd.grad(logits_N.sum(), images_NCHW, create_graph=True)
    return tuple(gradient_NCHW.square().flatten(1).sum(1) for gradient_NCHW in gradients)


def unit_gradient_penalty(logits_N: Tensor, images_NCHW: Tensor) -> Tensor:
    """10 (|grad| - 1)^2 at interpolates (Gulrajani et al. 2017, eq. 3)."""
    norm_N = (squared_gradients(logits_N, images_NCHW)[0] + 1e-12).sqrt()
    return 10 * (norm_N - 1).square().mean()
