"""Discriminators: image_NCHW and condition c to one logit an image, with a projection <features, Emb(c)>."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medgan.gan.config import TrainConfig
from medgan.gan.layers import Condition, Residual, activate, batch_norm, down, he_, same


class Discriminator(nn.Module):
    """Ladder from the image to a 4x4 map, a dense layer, and the conditional projection (Miyato and Koyama 2018)."""

    def __init__(self, config: TrainConfig, classes: int, features: int = 0) -> None:
        """Build for `classes` classes, the null condition, and `features` numbers of other fields."""
        super().__init__()
        widths = config.discriminator_widths[::-1]
        full = 4 * 2 ** (len(widths) - 1) == config.size_px
        residual = config.backbone == "residual"
        depth = config.blocks * len(widths)
        dims = config.dims
        self.enter: nn.Module = same(1, widths[0], dims) if full else down(config.resample_d, 1, widths[0], dims)
        stages: list[nn.Module] = []
        for index, width in enumerate(widths):
            layers: list[nn.Module] = []
            if index:
                layers.append(down(config.resample_d, widths[index - 1], width, dims))
                layers += [batch_norm(width, dims)] if config.norm_d == "batch" else []
            if residual:
                layers += [Residual(width, depth=depth, dims=dims) for _ in range(config.blocks)]
            else:
                layers.append(nn.LeakyReLU(0.2))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        top = widths[-1]
        self.gather = nn.Linear(4**dims * top, top)
        self.judge = nn.Linear(top, 1)
        self.embedding = Condition(classes, features, top)
        self.scale = 1 / sqrt(top)
        he_(self.gather)
        he_(self.judge, 1.0)
        if config.spectral_norm:
            _spectral(self)

    def forward(self, x_NCHW: Tensor, c: Tensor) -> Tensor:
        """Logits (N,), float32."""
        x = self.enter(x_NCHW)
        for stage in self.stages:
            x = stage(x)
        with torch.autocast(x.device.type, enabled=False):  # what decides between real and fake stays float32
            features_NF = activate(self.gather(x.float().flatten(1)))
            projection_N = (features_NF * self.embedding(c)).sum(1) * self.scale
            logits_N: Tensor = self.judge(features_NF).squeeze(1) + projection_N
        return logits_N


def _spectral(network: nn.Module) -> None:
    """Spectral normalisation of every convolution and dense layer."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            spectral_norm(module)


def build(config: TrainConfig, classes: int, features: int = 0) -> nn.Module:
    """The discriminator a configuration asks for, with weights from `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2 * config.seed + 1)
        return Discriminator(config, classes, features)
