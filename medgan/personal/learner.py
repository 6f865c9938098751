"""The downstream model: a protocol of two methods that a team's own fits, and small good networks for those without.

A learner gets images with targets and which of them are synthetic, and later scores images. Whatever an arm of the
comparison does to the training set was done before, so every learner is compared on equal terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from medgan.errors import InvalidRequest
from medgan.gan.arithmetic import fixed
from medgan.personal.cases import Cases

_RATE = 3e-3
_SYNTHETIC, _TRUSTED = 0.8, 50
"""Share of synthetic cases in the first batch, where a set holds both: general first, local last. It falls by half with
`_TRUSTED` real cases, nearly to nothing with hundreds, and little with ten, whose copies would be learned by heart."""


class Learner(Protocol):
    """What a team brings."""

    def fit(self, cases: Cases, synthetic_N: NDArray[np.bool_], *, seed: int) -> None:
        """Train from scratch on `cases`, of which some are synthetic."""
        ...

    def predict(self, unit_NHW: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores: (N, classes) class probabilities, (N,) numbers, or (N, 1 + structures, H, W), background first."""
        ...


def answered(learner: Learner, unit_NHW: NDArray[np.float32], *each: int) -> NDArray[np.float64]:
    """What a learner answers, (N, *each); `InvalidRequest` where it is something else, or no numbers."""
    wanted = (len(unit_NHW), *each)
    try:
        found = np.asarray(learner.predict(unit_NHW), np.float64)
    except (TypeError, ValueError):  # None, ragged lists, text
        found = np.empty(())
    if found.shape != wanted or not np.isfinite(found).all():
        raise InvalidRequest(f"the learner is to answer with finite numbers of shape {wanted}, not {found.shape}")
    return found


class Network(ABC):
    """How the networks here are trained and asked; the same seed gives the same model."""

    batch = 32

    def __init__(self, *, steps: int, real: int) -> None:
        """Train for `steps` batches; of the cases to come `real` are real and no copies of each other."""
        self.steps, self.real = steps, real
        self._network: nn.Module | None = None

    @abstractmethod
    def _built(self) -> nn.Module:
        """A fresh network; chance is seeded."""

    @abstractmethod
    def _targets(self, cases: Cases) -> Tensor:
        """(N, ...) what its outputs are compared with."""

    @abstractmethod
    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        """How far a batch of outputs lies from its targets."""

    @abstractmethod
    def _scores(self, out: Tensor) -> Tensor:
        """What `predict` says of outputs."""

    def fit(self, cases: Cases, synthetic_N: NDArray[np.bool_], *, seed: int) -> None:
        """Train with AdamW and one cycle; the share of synthetic cases falls from batch to batch."""
        rng = np.random.default_rng(seed)
        images, target = torch.from_numpy(cases.unit)[:, None], self._targets(cases)
        real, made = np.flatnonzero(~synthetic_N), np.flatnonzero(synthetic_N)
        with fixed(1), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._built()
            optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.05, fused=True)
            rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=self.steps)
            for step in range(self.steps):
                rows = self._drawn(real, made, step / self.steps, rng)
                loss = self._loss(network(images[rows]), target[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                rates.step()
        self._network = network.eval()

    def _drawn(
        self, real: NDArray[np.int64], made: NDArray[np.int64], progress: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Rows of one batch: from both sources by the schedule, or from the only one there is."""
        share = _SYNTHETIC * (1 - progress * self.real / (self.real + _TRUSTED))
        count = 0 if not len(made) else self.batch if not len(real) else round(share * self.batch)
        drawn = [rng.choice(source, n) for source, n in ((made, count), (real, self.batch - count)) if n]
        return np.concatenate(drawn)

    def predict(self, unit_NHW: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores as the protocol has them: probabilities, or numbers in the target's unit."""
        assert self._network is not None, "fit first"  # noqa: S101 - a mistake of the caller's code
        with fixed(1), torch.inference_mode():
            parts = [self._network(torch.from_numpy(part)[:, None]) for part in _parts(unit_NHW)]
            scores = self._scores(torch.cat(parts))
        values: NDArray[np.float64] = scores.numpy().astype(np.float64)
        return values


class Cnn(Network):
    """Four strided convolutions with group norm and average pooling."""

    def __init__(self, *, classes: int, steps: int, real: int) -> None:
        """`classes` of 0 means regression."""
        super().__init__(steps=steps, real=real)
        self.classes = classes
        self._centre, self._scale = 0.0, 1.0

    def _built(self) -> nn.Module:
        return _network(self.classes or 1)

    def _targets(self, cases: Cases) -> Tensor:
        if self.classes:
            return torch.from_numpy(cases.target)
        self._centre, self._scale = float(cases.target.mean()), float(cases.target.std()) or 1.0
        return torch.from_numpy((cases.target - self._centre) / self._scale)

    def _loss(self, out: Tensor, target: Tensor) -> Tensor:
        if self.classes:
            return cross_entropy(out, target, label_smoothing=0.05)
        return smooth_l1_loss(out[:, 0], target.float())

    def _scores(self, out: Tensor) -> Tensor:
        return torch.softmax(out, 1) if self.classes else out[:, 0] * self._scale + self._centre


def _parts(unit_NHW: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [part for part in np.array_split(unit_NHW, -(-len(unit_NHW) // 512)) if len(part)]


def _network(out: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = 1
    for width in (16, 32, 64, 96):
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, out))
