"""The in-domain encoder: a small network trained on the real train split, frozen, named by a digest of its weights.

It learns to recognise an image again after a small shift, zoom and gain (contrastive, NT-Xent of Chen et al. 2020)
and to tell the classes apart, so its features keep what separates images and not only what separates classes.
Training takes a fixed number of steps with fixed seeds on one thread: the same cohort gives the same encoder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from medgan.gan.arithmetic import fixed
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig

FEATURES = 64
STEPS = 200
"""Steps of training: where the floor stopped moving."""
_BATCH, _RATE, _TEMPERATURE = 96, 2e-3, 0.2
_SEED = 20_26


class Network(nn.Module):
    """Image (N, 1, S, S) to features (N, 64): three strided convolutions and average pooling."""

    def __init__(self, classes: int) -> None:
        """Build with one head a training task."""
        super().__init__()
        widths = (1, 16, 32, FEATURES)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.GroupNorm(4, c_out), nn.LeakyReLU(0.1)]
        self.trunk = nn.Sequential(*layers)
        self.gather = nn.Linear(FEATURES * 4, FEATURES)
        self.project = nn.Linear(FEATURES, 32)
        self.classify = nn.Linear(FEATURES, classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Features (N, 64), after average pooling to 2 x 2."""
        pooled = nn.functional.adaptive_avg_pool2d(self.trunk(x_NCHW), 2).flatten(1)
        features: Tensor = self.gather(nn.functional.leaky_relu(pooled, 0.1))
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A frozen network with the scale that gives real training features a total variance of 64."""

    network: Network
    scale: float
    sha256: str

    def __call__(self, unit_NHW: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features (N, 64) float64 of images in [-1, 1]."""
        return self.scale * _features(self.network, unit_NHW)

    def sees(self, unit_NHW: NDArray[np.float32]) -> NDArray[np.int64]:
        """Class index (N,) that its classifying head sees in images in [-1, 1]."""
        with fixed(1), torch.inference_mode():
            scores = self.network.classify(torch.from_numpy(_features(self.network, unit_NHW).astype(np.float32)))
        seen: NDArray[np.int64] = scores.argmax(1).numpy()
        return seen


def train(
    unit_NHW: NDArray[np.float32], class_index: NDArray[np.int64], classes: int, *, steps: int | None = None
) -> Encoder:
    """Train the encoder on real images in [-1, 1] (N, S, S) with their class indices, for `STEPS` if not told."""
    steps = STEPS if steps is None else steps
    with fixed(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = Network(classes)
        rng = np.random.default_rng(_SEED)
        optimiser = torch.optim.Adam(network.parameters(), lr=_RATE, fused=True)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
        for _ in range(steps):
            rows = rng.choice(len(unit_NHW), min(_BATCH, len(unit_NHW)), replace=False)
            loss = _loss(network, torch.from_numpy(unit_NHW[rows])[:, None], class_index[rows], rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
            optimiser.step()
            rates.step()
    network.eval().requires_grad_(requires_grad=False)
    spread = _features(network, unit_NHW).var(0).sum()
    return Encoder(network=network, scale=float(np.sqrt(FEATURES / spread)), sha256=_digest(network))


def _loss(network: Network, real: Tensor, class_index: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Class cross-entropy plus NT-Xent between two views of each image."""
    count = len(real)
    views = torch.cat([_view(real, rng), _view(real, rng)])
    features = network(views)
    target = torch.from_numpy(np.concatenate([class_index, class_index]))
    towards = normalize(network.project(features))
    similar = towards @ towards.T / _TEMPERATURE - 1e9 * torch.eye(2 * count)
    partner = torch.arange(2 * count).roll(count)
    return cross_entropy(similar, partner) + cross_entropy(network.classify(features), target)


def _view(real: Tensor, rng: np.random.Generator) -> Tensor:
    """One random view: shift, zoom, gain and bias; no noise, or the encoder would not see blur."""
    config = TrainConfig(
        recipe="views",
        size_px=real.shape[-1],
        total_kimg=1,
        backbone="dense",
        augment_p=0.9,
        augment_shift=0.1,
        augment_zoom=0.1,
        augment_gain=0.1,
        augment_bias=0.1,
    )
    return Warp(config, len(real), rng)(real)


def _features(network: Network, unit_NHW: NDArray[np.float32]) -> NDArray[np.float64]:
    with fixed(1), torch.inference_mode():
        parts = [
            network(torch.from_numpy(part)[:, None]) for part in np.array_split(unit_NHW, -(-len(unit_NHW) // 256))
        ]
    features: NDArray[np.float64] = torch.cat(parts).numpy().astype(np.float64)
    return features


def _digest(network: Network) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + b"\0" + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
