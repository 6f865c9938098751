"""The exported graph makes the images that torch makes."""

import numpy as np
import onnxruntime
import pytest
import torch

from medgan.errors import InvalidRequest
from medgan.gan import generator
from medgan.gan.onnx import export
from tests.unit.gan.builders import small_config

LADDERS = [
    {},
    {"widths": (32, 16, 8, 8)},
    {"resample_g": "strided", "norm_g": "batch"},
    {"finish_g": "strided", "match_spectrum": True},
    {"backbone": "residual", "widths": (32, 16, 16, 8)},
    {"sketch": 1},
    {"sketch": 4},
]


@pytest.mark.parametrize("changes", LADDERS)
def test_onnxruntime_makes_the_images_of_torch(changes):
    torch.manual_seed(1)
    network = generator.build(small_config(**changes), 2).eval()
    for parameter in network.parameters():  # so that no zero start hides a wrong layer
        parameter.data += 0.02 * torch.randn_like(parameter)
    for name, buffer in network.named_buffers():
        if name.endswith(("mean", "basis", "kernel")):
            buffer.add_(torch.linspace(0.05, 0.15, buffer.numel()).view_as(buffer))  # no two rows are alike
    z, c = torch.randn(5, small_config().latent_dim), torch.tensor([0, 1, 2, 1, 0])
    with torch.inference_mode():
        expected = network(z, c).numpy()
    session = onnxruntime.InferenceSession(export(network), providers=["CPUExecutionProvider"])
    (made,) = session.run(["image"], {"z": z.numpy(), "c": c.numpy()})
    assert made.shape == (5, 1, 32, 32)
    assert np.abs(made - expected).max() < 1e-5
    assert expected.std() > 1e-3


def test_fields_beside_the_class_are_a_third_input():
    torch.manual_seed(1)
    network = generator.build(small_config(), 2, 5).eval()
    z, c, features = torch.randn(3, 64), torch.tensor([0, 1, 2]), torch.randn(3, 5)
    with torch.inference_mode():
        expected = network(z, torch.cat([c[:, None].float(), features], 1)).numpy()
    session = onnxruntime.InferenceSession(export(network), providers=["CPUExecutionProvider"])
    (made,) = session.run(["image"], {"z": z.numpy(), "c": c.numpy(), "features": features.numpy()})
    assert np.abs(made - expected).max() < 1e-5


def test_a_generator_without_a_ladder_is_refused():
    with pytest.raises(InvalidRequest, match="ladder"):
        export(generator.build(small_config(backbone="dense"), 2))
