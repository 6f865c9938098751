"""Generators: latent z_NZ and condition c to image_NCHW in about [-1, 1], one channel.

c is (N,) int64, or (N, 1 + F) float32 where a model has fields beside the class (see `conditions.joined`); class index
`classes` (one past the last) is the null condition.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medgan.gan.config import TrainConfig
from medgan.gan.layers import Condition, Residual, SmoothUp, he_, up

_DCGAN_STD = 0.02  # Radford et al. 2016, section 4


class Generator(nn.Module):
    """Ladder from a 4x4 map to the image; backbone `dcgan` or `residual`."""

    def __init__(self, config: TrainConfig, classes: int, features: int = 0) -> None:
        """Build for `classes` classes, the null condition, and `features` numbers of other fields."""
        super().__init__()
        widths = config.widths
        self.embedding = Condition(classes, features, config.embedding_dim)
        self.start = nn.Linear(config.latent_dim + config.embedding_dim, widths[0] * 16)
        he_(self.start)
        self.width = widths[0]
        self.size_px = config.size_px
        residual = config.backbone == "residual"
        depth = config.blocks * len(widths)
        stages: list[nn.Module] = []
        for index, width in enumerate(widths):
            layers: list[nn.Module] = []
            if index:
                layers.append(up(config.resample_g, widths[index - 1], width))
            if residual:
                layers += [Residual(width, depth=depth) for _ in range(config.blocks)]
            else:
                layers += [nn.BatchNorm2d(width)] if config.norm_g == "batch" else []
                layers.append(nn.LeakyReLU(0.2))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        full = 4 * 2 ** (len(widths) - 1) == config.size_px
        self.finish: nn.Module = (
            nn.Conv2d(widths[-1], 1, 3, padding=1) if full else up(config.resample_g, widths[-1], 1)
        )
        self.bounded = not residual
        if config.norm_g == "batch":
            self.apply(_dcgan_)

    def forward(self, z_NZ: Tensor, c: Tensor) -> Tensor:
        """Images (N, 1, size, size), float32."""
        x = self.start(torch.cat([z_NZ, self.embedding(c)], 1)).view(-1, self.width, 4, 4)
        for stage in self.stages:
            x = stage(x)
        x = self.finish(x)
        return torch.tanh(x) if self.bounded else x


class Dense(nn.Module):
    """The founding article's dense ladder 128-256-512-1024, brought from 4x4 to the image by upsampling."""

    def __init__(self, config: TrainConfig, classes: int, features: int = 0) -> None:
        """Build for `classes` classes, the null condition, and `features` numbers of other fields."""
        super().__init__()
        self.size_px = config.size_px
        self.embedding = Condition(classes, features, config.embedding_dim)
        sizes = (config.latent_dim + config.embedding_dim, 128, 256, 512, 1024)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(sizes):
            layers += [nn.Linear(c_in, c_out), nn.LeakyReLU(0.2)]
        self.ladder = nn.Sequential(*layers)
        self.finish = nn.Linear(sizes[-1], 16)

    def forward(self, z_NZ: Tensor, c: Tensor) -> Tensor:
        """Images (N, 1, size, size), float32."""
        hidden = self.ladder(torch.cat([z_NZ, self.embedding(c)], 1))
        small = torch.tanh(self.finish(hidden)).view(-1, 1, 4, 4)
        return interpolate(small, size=self.size_px, mode="bilinear", align_corners=False)


def _dcgan_(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | SmoothUp):
        nn.init.normal_(module.weight, std=_DCGAN_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, _DCGAN_STD)


def build(config: TrainConfig, classes: int, features: int = 0) -> nn.Module:
    """The generator a configuration asks for, with weights from `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2 * config.seed)
        kind = Dense if config.backbone == "dense" else Generator
        return kind(config, classes, features)
