"""Differential privacy for the discriminator: exact per-sample gradients, clipped by patient, noised, accounted.

Only the discriminator sees real images, so only its steps are privatised; the generator and its average are
post-processing. `torch.func` gives per-sample gradients through the R1 term, where hooks on modules do not.

The guarantee is for adding or removing one *patient*: a step draws each patient with probability `rate` (Poisson),
sums that patient's gradients first, clips the sum to norm `clip`, and adds Gaussian noise of `sigma x clip`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from medgan.errors import InvalidRequest

Gradients = dict[str, Tensor]
Logit = Callable[[Tensor, Tensor], Tensor]
"""One image (C, H, W) and its class () to one logit ()."""
SampleLoss = Callable[..., Tensor]
"""(Logit, *tensors of one sample) to a scalar."""

ORDERS: tuple[float, ...] = (*(1 + step / 10 for step in range(1, 100)), *map(float, range(12, 64)))
"""Renyi orders the accountant minimises over (the usual grid: 1.1 to 10.9 and 12 to 63)."""
_SERIES_TERMS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class DP:
    """The guarantee asked for.

    `delta` should not exceed 1 / (10 x patients); `clip` bounds one patient's gradient.
    """

    epsilon: float
    delta: float
    clip: float = 1.0
    unit: str = "patient"

    def __post_init__(self) -> None:
        """Refuse what is no guarantee."""
        if not (self.epsilon > 0 and 0 < self.delta < 1 and self.clip > 0 and self.unit == "patient"):
            raise InvalidRequest("epsilon and clip must be positive, delta in (0, 1), and the unit is the patient")


@dataclass(frozen=True, slots=True)
class Steps:
    """`count` steps at noise multiplier `sigma` and sampling rate `rate`."""

    sigma: float
    rate: float
    count: int


class Ledger:
    """What was spent on one collection, over all nights; epsilon is derived on demand, so nothing is rounded away."""

    def __init__(self, history: Iterable[Steps] = ()) -> None:
        """Start from an earlier history."""
        self.history: list[Steps] = list(history)

    def spend(self, steps: Steps) -> None:
        """Add steps; equal neighbours are joined, so that the history stays short."""
        if self.history and (self.history[-1].sigma, self.history[-1].rate) == (steps.sigma, steps.rate):
            steps = Steps(steps.sigma, steps.rate, self.history.pop().count + steps.count)
        self.history.append(steps)

    def epsilon(self, delta: float) -> float:
        """Epsilon at `delta` of everything spent (RDP composition; Canonne, Kamath and Steinke 2020, prop. 12)."""
        if not self.history:
            return 0.0
        orders = np.asarray(ORDERS)
        spent = sum(np.array([renyi(order, s.sigma, s.rate) for order in ORDERS]) * s.count for s in self.history)
        bounds = spent - (log(delta) + np.log(orders)) / (orders - 1) + np.log((orders - 1) / orders)
        return float(max(0.0, np.min(bounds)))

    def refuse_beyond(self, steps: Steps, *, total_epsilon: float, delta: float) -> None:
        """`InvalidRequest`, telling both numbers, when these steps would spend more than the configured total."""
        after = Ledger(self.history)
        after.spend(steps)
        spent, wanted = self.epsilon(delta), after.epsilon(delta)
        if wanted > total_epsilon:
            raise InvalidRequest(
                f"this training would bring the collection's budget from epsilon {spent:.3f} to {wanted:.3f}, and "
                f"{total_epsilon:.3f} is all there is (delta {delta:g})"
            )


def renyi(order: float, sigma: float, rate: float) -> float:
    """Renyi divergence of one Poisson-sampled Gaussian step (Mironov, Talwar and Zhang 2019, section 3.3)."""
    if rate == 0:
        return 0.0
    if rate == 1:
        return order / (2 * sigma**2)
    moment = _whole_moment if float(order).is_integer() else _real_moment
    return moment(order, sigma, rate) / (order - 1)


def solve_sigma(budget: DP, *, rate: float, steps: int) -> float:
    """The least noise multiplier, to 0.1 %, with which `steps` steps stay within the budget."""
    low, high = 0.2, 1000.0
    if Ledger([Steps(high, rate, steps)]).epsilon(budget.delta) > budget.epsilon:
        raise InvalidRequest(f"no noise up to {high:g} reaches epsilon {budget.epsilon:g} in {steps:,} steps")
    while high / low > 1.001:  # noqa: PLR2004 - the precision the docstring names
        middle = (low * high) ** 0.5
        if Ledger([Steps(middle, rate, steps)]).epsilon(budget.delta) > budget.epsilon:
            low = middle
        else:
            high = middle
    return high


def draw_patients(patients: int, rate: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of the patients of one step: each with probability `rate`, on its own (Poisson sampling)."""
    return np.flatnonzero(rng.random(patients) < rate).astype(np.int64)


def noise_generator(device: str = "cpu") -> torch.Generator:
    """A generator seeded by the operating system: the noise of a guarantee must not be foreseeable."""
    return torch.Generator(device).manual_seed(secrets.randbits(63))


def pairing_loss(gamma: float) -> SampleLoss:
    """R3 of one pair: softplus(D(fake) - D(real)) + gamma/2 (|grad D(real)|^2 + |grad D(fake)|^2)."""

    def loss(logit: Logit, real_CHW: Tensor, fake_CHW: Tensor, c: Tensor) -> Tensor:
        slopes = (grad(logit)(image_CHW, c).square().sum() for image_CHW in (real_CHW, fake_CHW))
        game = nn.functional.softplus(logit(fake_CHW, c) - logit(real_CHW, c))
        return game + gamma / 2 * sum(slopes, torch.zeros(()))

    return loss


def per_sample_gradients(network: nn.Module, loss: SampleLoss, *batch: Tensor) -> Gradients:
    """Gradient of the loss of each sample alone: name -> (N, ...) float32. Exact, penalties included."""
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def of_one(weights: Gradients, *sample: Tensor) -> Tensor:
        def logit(image_CHW: Tensor, c: Tensor) -> Tensor:
            logits: Tensor = functional_call(network, (weights, buffers), (image_CHW[None], c[None]))
            return logits[0]

        return loss(logit, *sample)

    gradients: Gradients = vmap(grad(of_one), in_dims=(None, *([0] * len(batch))))(parameters, *batch)
    return gradients


def clipped_sum(gradients: Gradients, patients: Sequence[int], clip: float) -> Gradients:
    """Sum over patients of each patient's summed gradient, scaled to norm `clip` at most.

    However many images a patient has, that patient moves the result by no more than `clip`.
    """
    _, owner = torch.unique(torch.as_tensor(patients), return_inverse=True)
    count = int(owner.max()) + 1 if len(owner) else 0
    sums = {
        name: torch.zeros((count, *value.shape[1:]), dtype=value.dtype).index_add_(0, owner, value)
        for name, value in gradients.items()
    }
    squares = sum((value.reshape(count, -1).square().sum(1) for value in sums.values()), torch.zeros(count))
    factors = (clip / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
    return {name: torch.tensordot(factors, value, dims=1) for name, value in sums.items()}


def privatised(
    total: Gradients, *, clip: float, sigma: float, expected_patients: float, generator: torch.Generator
) -> Gradients:
    """The mean gradient to step with: (sum + N(0, (sigma clip)^2)) / patients expected in a step."""
    return {
        name: (value + sigma * clip * torch.randn(value.shape, generator=generator)) / expected_patients
        for name, value in sorted(total.items())
    }


def _whole_moment(order: float, sigma: float, rate: float) -> float:
    """Log moment for an integer order: a finite binomial sum."""
    k = np.arange(int(order) + 1)
    terms = _log_binomial(order, k) + k * log(rate) + (order - k) * np.log1p(-rate) + (k * k - k) / (2 * sigma**2)
    return float(special.logsumexp(terms))


def _real_moment(order: float, sigma: float, rate: float) -> float:
    """Log moment for a real order: two convergent series with alternating signs."""
    k = np.arange(_SERIES_TERMS, dtype=np.float64)
    crossing = sigma**2 * log(1 / rate - 1) + 0.5
    binomials, signs = _log_binomial(order, k), special.gammasgn(order - k + 1)
    rest = order - k
    left = k * log(rate) + rest * np.log1p(-rate) + (k * k - k) / (2 * sigma**2)
    right = rest * log(rate) + k * np.log1p(-rate) + (rest * rest - rest) / (2 * sigma**2)
    left += special.log_ndtr((crossing - k) / sigma)
    right += special.log_ndtr((rest - crossing) / sigma)
    return float(special.logsumexp(np.concatenate([binomials + left, binomials + right]), b=np.tile(signs, 2)))


def _log_binomial(order: float, k: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Log |C(order, k)|, for real orders too."""
    below: npt.NDArray[np.float64] = special.gammaln(k + 1.0) + special.gammaln(order - k + 1.0)
    return float(special.gammaln(order + 1)) - below
