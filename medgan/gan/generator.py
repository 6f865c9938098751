"""Generators: latent z_NZ and condition c to image_NCHW in about [-1, 1], one channel.

c is (N,) int64, or (N, 1 + F) float32 where a model has fields beside the class (see `conditions.joined`); class index
`classes` (one past the last) is the null condition.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet
from medgan.gan.layers import Condition, Residual, SmoothUp, batch_norm, he_, same, up
from medgan.gan.sketch import HALF_WAY, Sketch
from medgan.gan.spectrum import Polish

_DCGAN_STD = 0.02  # Radford et al. 2016, section 4


class Generator(nn.Module):
    """Ladder from a 4x4 map to the image; backbone `dcgan` or `residual`."""

    def __init__(self, config: TrainConfig, classes: int, features: int = 0) -> None:
        """Build for `classes` classes, the null condition, and `features` numbers of other fields."""
        super().__init__()
        widths = config.widths
        self.embedding = Condition(classes, features, config.embedding_dim)
        dims = config.dims
        self.base = (widths[0], *[4] * dims)
        self.start = nn.Linear(config.latent_dim + config.embedding_dim, widths[0] * 4**dims)
        he_(self.start)
        self.size_px = config.size_px
        residual = config.backbone == "residual"
        depth = config.blocks * len(widths)
        stages: list[nn.Module] = []
        for index, width in enumerate(widths):
            layers: list[nn.Module] = []
            if index:
                layers.append(up(config.resample_g, widths[index - 1], width, dims))
            if residual:
                layers += [Residual(width, depth=depth, dims=dims) for _ in range(config.blocks)]
            else:
                layers += [batch_norm(width, dims)] if config.norm_g == "batch" else []
                layers.append(nn.LeakyReLU(0.2))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.sketch = Sketch(classes, config) if config.sketch else None
        full = 4 * 2 ** (len(widths) - 1) == config.size_px
        last = config.finish_g or config.resample_g
        self.finish: nn.Module = same(widths[-1], 1, dims) if full else up(last, widths[-1], 1, dims)
        self.bounded = not residual
        if config.norm_g == "batch":
            self.apply(_dcgan_)
        if self.sketch is not None:
            he_(self.sketch.read)
        self.polish = Polish(dims) if config.match_spectrum else None

    def learn(self, images: TrainingSet) -> None:
        """Take what is not trained from the training set: the statistics that the sketch draws from."""
        if self.sketch is not None:
            self.sketch.learn(images)

    def forward(self, z_NZ: Tensor, c: Tensor) -> Tensor:
        """Images (N, 1, size, size), float32."""
        x = self.start(torch.cat([z_NZ, self.embedding(c)], 1)).view(-1, *self.base)
        ground = None
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == HALF_WAY and self.sketch is not None:
                read, ground = self.sketch(z_NZ, c if c.ndim == 1 else c[:, 0].long())
                x = x + read.to(x.dtype)
        if self.training:
            return self._image(x, ground)
        with torch.autocast(x.device.type, enabled=False):  # the last word on intensity: bf16 knows 8 bits of it
            x = self._image(x.float(), ground)
            return x if self.polish is None else cast("Tensor", self.polish(x))

    def _image(self, x_NCHW: Tensor, ground: Tensor | None) -> Tensor:
        made: Tensor = self.finish(x_NCHW)
        made = made if ground is None else made + ground
        return torch.tanh(made) if self.bounded else made


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
        with torch.autocast(hidden.device.type, enabled=False):
            small = torch.tanh(self.finish(hidden.float())).view(-1, 1, 4, 4)
        return interpolate(small, size=self.size_px, mode="bilinear", align_corners=False)


def _dcgan_(module: nn.Module) -> None:
    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear | SmoothUp
    if isinstance(module, kinds):
        nn.init.normal_(module.weight, std=_DCGAN_STD)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, _DCGAN_STD)


def build(config: TrainConfig, classes: int, features: int = 0) -> nn.Module:
    """The generator a configuration asks for, with weights from `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2 * config.seed)
        kind = Dense if config.backbone == "dense" else Generator
        return kind(config, classes, features)
