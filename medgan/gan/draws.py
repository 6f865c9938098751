"""Everything random in one round, from counters: (seed, step, retreats) decide it, on one process or on many."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.gan import conditions
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet, indices
from medgan.gan.parallel import World


class Draws:
    """Draws of one round in a fixed order; tensors come as this process's share, on the configured device."""

    def __init__(self, config: TrainConfig, step: int, retreats: int, world: World) -> None:
        """Start the round's stream."""
        self.config = config
        self.step = step
        self.world = world
        self.rng = np.random.Generator(np.random.Philox(key=[config.seed, step + (retreats << 48)]))

    def real(self, images: TrainingSet, turn: int) -> tuple[Tensor, Tensor]:
        """Real images (n, 1, H, W) and conditions `c`, some dropped to null, for one of the critic's turns."""
        config = self.config
        shown = indices(self.step * config.critic_steps + turn, config.batch, len(images.class_index), config.seed)
        null = self.rng.random(config.batch) < config.unconditional_drop
        rows = self.world.share(torch.from_numpy(shown)).numpy()
        real, _ = images.batch(rows)
        classes = np.where(null, len(images.classes), images.class_index[shown])
        features = images.features[shown]
        if images.fields:  # each field for itself, so that any subset of conditions can be asked for
            null_NK = self.rng.random((config.batch, len(images.fields))) < config.unconditional_drop
            features = conditions.dropped(images.fields, features, null_NK)
        return torch.from_numpy(real).to(config.device), self._share(conditions.joined(classes, features))

    def latents(self) -> Tensor:
        """Z (n, latent_dim), standard normal."""
        return self._share(self.rng.standard_normal((self.config.batch, self.config.latent_dim), dtype=np.float32))

    def warp(self) -> Warp:
        """Augmentations for n images."""
        return Warp(self.config, self.config.batch, self.rng).map(
            lambda tensor: self.world.share(tensor).to(self.config.device)
        )

    def shares(self) -> Tensor:
        """Uniform mixing weights (n, 1, 1, 1), or one axis more for volumes."""
        return self._share(self.rng.random((self.config.batch, 1, *[1] * self.config.dims), dtype=np.float32))

    def _share(self, rows: NDArray[Any]) -> Tensor:
        return self.world.share(torch.from_numpy(rows)).to(self.config.device)
