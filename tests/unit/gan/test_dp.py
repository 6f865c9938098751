from __future__ import annotations

import numpy as np
import pytest
import torch

from medgan.errors import InvalidRequest
from medgan.gan import dp
from medgan.gan.discriminator import build
from tests.unit.gan.builders import small_config, small_set

# Epsilon of Opacus 1.6.0 (opacus.accountants.analysis.rdp, orders 1.1..10.9 and 12..63): (sigma, rate, steps, delta)
OPACUS = {
    (1.0, 0.01, 1000, 1e-5): 2.1013652716430564,
    (2.0, 512 / 60000, 174000, 1e-5): 10.079120449303085,
    (5.25, 4096 / 60000, 2200, 1e-5): 2.751171013954336,
    (3.5, 1024 / 5000, 1000, 2e-5): 9.809290579688982,
    (0.8, 0.004, 5000, 1e-6): 3.392487653680443,
    (14.3, 4096 / 60000, 2200, 1e-5): 0.9019849769158554,
}


@pytest.fixture(scope="module")
def pairs():
    """A discriminator and six pairs of real images, standing for real and fake."""
    pixels = torch.from_numpy(small_set(12).pixels.astype(np.float32))[:, None] / 32767.5 - 1
    network = build(small_config(), 2).float()
    return network, pixels[:6], pixels[6:], torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(("spent", "epsilon"), OPACUS.items())
def test_epsilon_is_that_of_opacus(spent, epsilon):
    sigma, rate, steps, delta = spent
    assert dp.Ledger([dp.Steps(sigma, rate, steps)]).epsilon(delta) == pytest.approx(epsilon, rel=1e-6)


def test_nights_compose_and_an_equal_night_is_joined():
    ledger = dp.Ledger()
    for _ in range(3):
        ledger.spend(dp.Steps(1.0, 0.01, 500))
    ledger.spend(dp.Steps(2.0, 0.01, 500))
    assert [steps.count for steps in ledger.history] == [1500, 500]
    assert ledger.epsilon(1e-5) > dp.Ledger([dp.Steps(1.0, 0.01, 1500)]).epsilon(1e-5)
    assert dp.Ledger().epsilon(1e-5) == 0


def test_a_spent_budget_is_refused_with_both_numbers():
    ledger = dp.Ledger([dp.Steps(1.0, 0.01, 1000)])
    ledger.refuse_beyond(dp.Steps(1.0, 0.01, 1000), total_epsilon=3.0, delta=1e-5)
    with pytest.raises(InvalidRequest, match=r"2\.101 to .* 2\.500 is all"):
        ledger.refuse_beyond(dp.Steps(1.0, 0.01, 1000), total_epsilon=2.5, delta=1e-5)


def test_sigma_is_solved_to_the_budget():
    budget = dp.DP(epsilon=8.0, delta=1e-5)
    sigma = dp.solve_sigma(budget, rate=0.05, steps=1000)
    assert 0.995 * 8 < dp.Ledger([dp.Steps(sigma, 0.05, 1000)]).epsilon(1e-5) <= 8.0


def test_per_sample_gradients_are_exact_with_r1(pairs):
    network, *batch = pairs
    loss = dp.pairing_loss(0.2)
    together = dp.per_sample_gradients(network, loss, *batch)
    for index, (real, fake, c) in enumerate(zip(*batch, strict=True)):
        images = [image[None].clone().requires_grad_() for image in (real, fake)]
        logits = [network(image, c[None])[0] for image in images]
        slopes = torch.autograd.grad(logits[0] + logits[1], images, create_graph=True)
        alone = torch.nn.functional.softplus(logits[1] - logits[0]) + 0.1 * sum(s.square().sum() for s in slopes)
        expected = torch.autograd.grad(alone, list(network.parameters()))
        for (name, _), value in zip(network.named_parameters(), expected, strict=True):
            scale = max(float(value.abs().max()), 1e-3)
            assert float((together[name][index] - value).abs().max()) <= 1e-5 * scale


def test_a_patient_with_fifty_images_moves_the_sum_by_no_more_than_the_clip():
    rng = torch.Generator().manual_seed(0)
    others = {"w": torch.randn((20, 7), generator=rng), "b": torch.randn((20,), generator=rng)}
    many = {name: 30 * torch.randn((50, *value.shape[1:]), generator=rng) for name, value in others.items()}
    without = dp.clipped_sum(others, range(20), 0.7)
    joined = {name: torch.cat([others[name], many[name]]) for name in others}
    with_patient = dp.clipped_sum(joined, [*range(20), *[20] * 50], 0.7)
    moved = torch.cat([(with_patient[name] - without[name]).flatten() for name in others])
    assert float(moved.norm()) == pytest.approx(0.7, rel=1e-5)


def test_a_small_gradient_is_not_scaled():
    gradients = {"w": torch.tensor([[0.3, 0.0], [0.0, 0.4]])}
    assert torch.allclose(dp.clipped_sum(gradients, [0, 1], 1.0)["w"], torch.tensor([0.3, 0.4]))


def test_noise_has_the_size_the_accountant_was_told():
    total = {"w": torch.zeros(200_000)}
    made = dp.privatised(total, clip=0.5, sigma=2.0, expected_patients=10, generator=torch.Generator().manual_seed(1))
    assert float(made["w"].std()) == pytest.approx(2.0 * 0.5 / 10, rel=0.01)


def test_each_patient_is_drawn_on_its_own():
    rng = np.random.default_rng(0)
    sizes = [len(dp.draw_patients(1000, 0.05, rng)) for _ in range(400)]
    assert np.mean(sizes) == pytest.approx(50, abs=1.5)
    assert np.var(sizes) == pytest.approx(1000 * 0.05 * 0.95, rel=0.25)


def test_the_noise_seed_is_not_foreseeable():
    first, second = (torch.randn(4, generator=dp.noise_generator()) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"delta": 1.0}, {"clip": 0}, {"unit": "image"}])
def test_what_is_no_guarantee_is_refused(wrong):
    with pytest.raises(InvalidRequest):
        dp.DP(**({"epsilon": 8.0, "delta": 1e-5} | wrong))


def test_no_noise_reaches_an_impossible_budget():
    with pytest.raises(InvalidRequest, match="no noise"):
        dp.solve_sigma(dp.DP(epsilon=1e-4, delta=1e-5), rate=1.0, steps=10**7)
