"""Losses and penalties against numbers computed by hand in float64."""

import math

import pytest
import torch

from medgan.gan.loss import LOSSES, squared_gradients, unit_gradient_penalty

REAL, FAKE = (0.5, -1.0, 2.0), (-0.25, 1.5, 0.0)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


CLASSIC_D = mean(softplus(-r) for r in REAL) + mean(softplus(f) for f in FAKE)
GOLDEN = {
    "r3": (
        mean(softplus(f - r) for r, f in zip(REAL, FAKE, strict=True)),
        mean(softplus(r - f) for r, f in zip(REAL, FAKE, strict=True)),
    ),
    "gan-minimax": (CLASSIC_D, -mean(softplus(f) for f in FAKE)),
    "gan-ns": (CLASSIC_D, mean(softplus(-f) for f in FAKE)),
    "wgan-clip": (mean(FAKE) - mean(REAL), -mean(FAKE)),
    "wgan-gp": (mean(FAKE) - mean(REAL), -mean(FAKE)),
    "hinge": (mean(max(0, 1 - r) for r in REAL) + mean(max(0, 1 + f) for f in FAKE), -mean(FAKE)),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_each_game_is_the_published_formula(name):
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    game = LOSSES[name]
    assert float(game.discriminator(real, fake)) == pytest.approx(GOLDEN[name][0], abs=1e-12)
    assert float(game.generator(real, fake)) == pytest.approx(GOLDEN[name][1], abs=1e-12)


def test_every_selectable_loss_has_a_golden_value():
    assert set(LOSSES) == set(GOLDEN)


def test_squared_gradient_of_a_known_function():
    x = torch.arange(8, dtype=torch.float64).reshape(2, 1, 2, 2).requires_grad_()
    logits = (x**2).sum((1, 2, 3)) / 2  # gradient is x itself
    assert squared_gradients(logits, x)[0].tolist() == [14.0, 126.0]


def test_penalty_has_a_second_derivative():
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    penalty = squared_gradients(scale * x.sum((1, 2, 3)), x)[0].mean()  # 4 scale^2
    (slope,) = torch.autograd.grad(penalty, scale)
    assert float(slope) == pytest.approx(24.0)


def test_unit_gradient_costs_nothing_and_double_costs_ten():
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float64).requires_grad_()
    assert float(unit_gradient_penalty(x[:, 0, 0, 0], x)) == pytest.approx(0.0, abs=1e-9)
    assert float(unit_gradient_penalty(2 * x[:, 0, 0, 0], x)) == pytest.approx(10.0)
