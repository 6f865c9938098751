from __future__ import annotations

import stat

import numpy as np
import pytest
import torch
from scipy import stats

from medgan.errors import InvalidRequest
from medgan.gan import dp
from medgan.gan.config import DP
from medgan.gan.discriminator import build
from tests.unit.gan.builders import small_config, small_set


@pytest.fixture
def secret(tmp_path):
    return dp.Secret.at(tmp_path / "key")


def test_per_sample_gradients_are_exact_with_r1(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the last layers are float32 on purpose
    pixels = torch.from_numpy(small_set(12).pixels.astype(np.float64))[:, None] / 32767.5 - 1
    network, batch = build(small_config(), 2).double(), (pixels[:6], pixels[6:], torch.tensor([0, 1, 0, 1, 0, 1]))
    together = dp.per_sample_gradients(network, dp.sample_loss("gan-ns", 0.2), *batch)
    for index, (real, fake, c) in enumerate(zip(*batch, strict=True)):
        image = real[None].clone().requires_grad_()
        logits = network(image, c[None])[0], network(fake[None], c[None])[0]
        slope = torch.autograd.grad(logits[0], image, create_graph=True)[0]
        softplus = torch.nn.functional.softplus
        alone = softplus(-logits[0]) + softplus(logits[1]) + 0.1 * slope.square().sum()
        expected = torch.autograd.grad(alone, list(network.parameters()))
        for (name, _), value in zip(network.named_parameters(), expected, strict=True):
            assert float((together[name][index] - value).abs().max()) <= 1e-6 * max(float(value.abs().max()), 1e-3)


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


def test_noise_has_the_size_and_the_shape_that_the_accountant_was_told(secret):
    total = {"w": torch.zeros(200_000), "b": torch.zeros(3)}
    made = dp.privatised(total, clip=0.5, sigma=2.0, expected_patients=10, secret=secret, step=0)
    assert float(made["w"].std()) == pytest.approx(2.0 * 0.5 / 10, rel=0.01)
    assert stats.kstest(made["w"].numpy() / 0.1, "norm").pvalue > 1e-4


def test_each_patient_is_drawn_on_its_own_and_with_one_image(secret):
    patients = dp.Patients(np.repeat(np.arange(1000), 3).astype(object))
    draws = [patients.draw(secret, step, 0.05) for step in range(400)]
    sizes = [len(rows) for rows in draws]
    assert np.mean(sizes) == pytest.approx(50, abs=1.5)
    assert np.var(sizes) == pytest.approx(1000 * 0.05 * 0.95, rel=0.25)
    assert all(len(set(rows // 3)) == len(rows) for rows in draws)
    assert {int(row) % 3 for rows in draws for row in rows} == {0, 1, 2}


def test_a_step_repeats_its_own_noise_and_no_other(secret, tmp_path):
    again = dp.Secret.at(tmp_path / "key")
    assert np.array_equal(secret.normals("noise", 7, 5), again.normals("noise", 7, 5))
    others = [
        secret.normals("noise", 8, 5),
        secret.normals("else", 7, 5),
        dp.Secret.at(tmp_path / "b").normals("noise", 7, 5),
    ]
    assert not any(np.allclose(secret.normals("noise", 7, 5), other) for other in others)


def test_the_secret_is_for_its_owner_only_and_its_name_does_not_tell_it(secret, tmp_path):
    path = tmp_path / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret.fingerprint == dp.Secret.at(path).fingerprint
    assert secret.fingerprint not in path.read_bytes().hex()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"delta": 1.0}, {"clip": 0}, {"unit": "image"}])
def test_what_is_no_guarantee_is_refused(wrong):
    with pytest.raises(InvalidRequest):
        DP(**({"epsilon": 8.0, "delta": 1e-5} | wrong))
