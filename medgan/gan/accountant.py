"""What differential privacy costs: the history of noisy steps, and the epsilon that follows from it.

One step draws each patient with probability `rate` (Poisson) and adds Gaussian noise of `sigma` times the clipping
norm; neighbours differ in one patient. A history is kept and epsilon derived on demand, so nothing is rounded away and
nights compose. Two accountants: Renyi (fast, an upper bound) and PRV (tight to 0.01, what we report).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, special

from medgan.errors import InvalidRequest

Reals = npt.NDArray[np.float64]

ORDERS: tuple[float, ...] = (*(1 + step / 10 for step in range(1, 100)), *map(float, range(12, 64)))
"""Renyi orders the accountant minimises over (the usual grid: 1.1 to 10.9 and 12 to 63)."""
EPSILON_ERROR = 0.01
"""What the discretisation of the PRV accountant may add to epsilon; it is added, so that the number stays a bound."""
_SERIES_TERMS = 2000
_QUADRATURE_POINTS = 200_001
_MOST_POINTS = 1 << 26


@dataclass(frozen=True, slots=True)
class Steps:
    """`count` steps at noise multiplier `sigma` and sampling rate `rate`."""

    sigma: float
    rate: float
    count: int


class Ledger:
    """What was spent by one patient, over all trainings."""

    def __init__(self, history: Iterable[Steps] = ()) -> None:
        """Start from an earlier history."""
        self.history: list[Steps] = []
        for steps in history:
            self.spend(steps)

    def spend(self, steps: Steps) -> None:
        """Add steps; equal ones are joined, so that the history stays short (composition does not mind the order)."""
        for index, known in enumerate(self.history):
            if (known.sigma, known.rate) == (steps.sigma, steps.rate):
                self.history[index] = Steps(steps.sigma, steps.rate, known.count + steps.count)
                return
        self.history.append(steps)

    def renyi_epsilon(self, delta: float) -> float:
        """Epsilon at `delta` by Renyi composition (Canonne, Kamath and Steinke 2020, prop. 12)."""
        if not self.history:
            return 0.0
        spent = sum(np.array([renyi(order, s.sigma, s.rate) for order in ORDERS]) * s.count for s in self.history)
        return _converted(np.asarray(spent), delta)

    def epsilon(self, delta: float) -> float:
        """Epsilon at `delta`, an upper bound: PRV where its grid fits in memory, and never more than Renyi's."""
        return _epsilon(tuple(self.history), delta)


@lru_cache(maxsize=256)
def _epsilon(history: tuple[Steps, ...], delta: float) -> float:
    return min(prv_epsilon(history, delta), Ledger(history).renyi_epsilon(delta))


@lru_cache(maxsize=8192)
def renyi(order: float, sigma: float, rate: float) -> float:
    """Renyi divergence of one Poisson-sampled Gaussian step (Mironov, Talwar and Zhang 2019, section 3.3)."""
    if rate == 0:
        return 0.0
    if rate == 1:
        return order / (2 * sigma**2)
    moment = _whole_moment if float(order).is_integer() else _real_moment
    return moment(order, sigma, rate) / (order - 1)


def prv_epsilon(history: Sequence[Steps], delta: float) -> float:
    """Epsilon at `delta` by numerical composition of privacy loss variables (Gopi, Lee and Wutschitz 2021).

    The larger of adding and of removing a patient, with the discretisation's error added. Infinite where the grid
    would not fit in memory (then Renyi's bound has to do).
    """
    steps = [s for s in history if s.count and s.rate]
    if not steps:
        return 0.0
    delta_error = delta / 1000
    total = sum(s.count for s in steps)
    mesh = EPSILON_ERROR / sqrt(total * log(12 / delta_error) / 2)  # their theorem 5.5
    half = ceil(_safe_domain(steps, total, delta_error) / mesh)
    if 2 * half + 1 > _MOST_POINTS:
        return inf
    size = fft.next_fast_len(2 * half + 1, real=True)
    grid: Reals = (np.arange(size) - size // 2).astype(np.float64) * mesh
    return max(_composed(steps, grid, mesh, delta - delta_error, removing=removing) for removing in (True, False))


@lru_cache(maxsize=64)
def solve_sigma(*, epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise multiplier, to 0.5 %, with which `steps` steps stay within the target."""

    def within(sigma: float, *, tight: bool) -> bool:
        ledger = Ledger([Steps(sigma, rate, steps)])
        return (ledger.epsilon(delta) if tight else ledger.renyi_epsilon(delta)) <= epsilon

    low, high = 0.2, 1000.0
    if not within(high, tight=False):
        raise InvalidRequest(f"no noise up to {high:g} reaches epsilon {epsilon:g} in {steps:,} steps")
    high = _bisected(low, high, lambda sigma: within(sigma, tight=False))
    # PRV needs less noise than Renyi, by a tenth or two: look from there downwards
    low = 0.7 * high
    return low if within(low, tight=True) else _bisected(low, high, lambda sigma: within(sigma, tight=True))


def _bisected(low: float, high: float, enough: Any) -> float:
    while high / low > 1.005:  # noqa: PLR2004 - the precision the docstring of `solve_sigma` names
        middle = sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _converted(spent: Reals, delta: float) -> float:
    orders = np.asarray(ORDERS)
    bounds = spent - (log(delta) + np.log(orders)) / (orders - 1) + np.log((orders - 1) / orders)
    return float(max(0.0, np.min(bounds)))


def _safe_domain(steps: Sequence[Steps], total: int, delta_error: float) -> float:
    """A loss that neither the composition nor any one step exceeds but with negligible chance (their section 5)."""
    one = [np.array([renyi(order, s.sigma, s.rate) for order in ORDERS]) for s in steps]
    composed = sum(cost * s.count for cost, s in zip(one, steps, strict=True))
    reach = [_converted(np.asarray(composed), delta_error / 4)]
    reach += [_converted(cost, delta_error / (8 * total)) for cost in one]
    return max(*reach, EPSILON_ERROR) + 3


def _composed(steps: Sequence[Steps], grid: Reals, mesh: float, delta: float, *, removing: bool) -> float:
    """Epsilon at `delta` of all steps, for one direction of the neighbourhood, discretisation error included."""
    spectrum: npt.NDArray[np.complex128] | float = 1.0
    moved = 0.0
    for s in steps:
        edges = np.concatenate([grid - mesh / 2, grid[-1:] + mesh / 2])
        mass = np.diff(_loss_cdf(edges, s, removing=removing))
        mass /= mass.sum()
        moved += s.count * (_mean_loss(s, removing=removing) - float(mass @ grid))  # keep the mean (their lemma 5.3)
        spectrum = spectrum * fft.rfft(fft.ifftshift(mass)) ** s.count
    mass = np.maximum(fft.fftshift(fft.irfft(np.asarray(spectrum), n=len(grid))), 0)
    losses = grid + moved
    above = losses > 0
    losses, mass = losses[above], mass[above]
    beyond = np.cumsum(mass[::-1])[::-1]
    weighted = np.cumsum((mass * np.exp(-losses))[::-1])[::-1]
    reached = np.flatnonzero(beyond - np.exp(losses) * weighted <= delta)
    return float(losses[reached[0]]) + EPSILON_ERROR if len(reached) else inf


def _loss_cdf(loss: Reals, s: Steps, *, removing: bool) -> Reals:
    """P(privacy loss <= `loss`) of one step; P = N(0, sigma^2), Q = (1 - rate) P + rate N(1, sigma^2).

    Removing: log Q/P under Q. Adding: log P/Q under P.
    """
    signed = loss if removing else -loss
    inside = np.expm1(np.minimum(signed, 700)) + s.rate  # exp(loss) - 1 + rate, positive where the loss is possible
    possible = inside > 0
    at = s.sigma**2 * np.log(np.where(possible, inside, 1.0) / s.rate) + 0.5
    if removing:
        below = (1 - s.rate) * special.ndtr(at / s.sigma) + s.rate * special.ndtr((at - 1) / s.sigma)
        return np.where(possible, below, 0.0)
    return np.where(possible, special.ndtr(-at / s.sigma), 1.0)


def _mean_loss(s: Steps, *, removing: bool) -> float:
    """Mean privacy loss of one step by the trapezoidal rule, which is exact to rounding for such smooth integrands."""
    t = np.linspace(-14 * s.sigma, 1 + 14 * s.sigma, _QUADRATURE_POINTS)
    loss = (
        np.logaddexp(np.log1p(-s.rate), log(s.rate) + (2 * t - 1) / (2 * s.sigma**2))
        if s.rate < 1
        else ((2 * t - 1) / (2 * s.sigma**2))
    )
    away, near = (np.exp(-((t - centre) ** 2) / (2 * s.sigma**2)) for centre in (0, 1))
    density = (1 - s.rate) * away + s.rate * near if removing else away
    return float((loss if removing else -loss) @ density / density.sum())


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


def _log_binomial(order: float, k: npt.NDArray[Any]) -> Reals:
    """Log |C(order, k)|, for real orders too."""
    below: Reals = special.gammaln(k + 1.0) + special.gammaln(order - k + 1.0)
    return float(special.gammaln(order + 1)) - below
