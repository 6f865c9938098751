"""Blocks of both networks: smooth resampling at the price of a strided convolution, and the residual block.

The same blocks make flat images and volumes: `dims` is 2 or 3. Legend: N images, C channels, H rows, W columns (and D
slices before them).
"""

from __future__ import annotations

from itertools import product
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d, conv_transpose2d, conv_transpose3d, leaky_relu, pad

LEAK = 0.2
_RESIDUAL_GAIN = sqrt(2 / (1 + LEAK**2))  # He et al. 2015 for a leaky rectifier
_GROUP = 16
_CONV: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def activate(x_NCHW: Tensor) -> Tensor:
    """Leaky rectifier of slope 0.2."""
    return leaky_relu(x_NCHW, LEAK)


def channels_last(dims: int) -> torch.memory_format:
    """The memory layout in which convolutions of images or volumes run fastest."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d  # noqa: PLR2004 - flat images


class SmoothUp(nn.Module):
    """Nearest x2 upsampling followed by a 3x3 convolution, computed as one 4x4 transposed convolution.

    Summing the 3x3 kernel over the four places a repeated pixel takes gives a 4x4 kernel: 4 taps a pixel instead
    of 9, and no checkerboard, because every output phase sees the same 3x3 kernel.
    """

    def __init__(self, c_in: int, c_out: int, dims: int = 2) -> None:
        """Map (N, c_in, H, W) to (N, c_out, 2H, 2W)."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_in, c_out, *[3] * dims) * _RESIDUAL_GAIN / sqrt(3**dims * c_in))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Upsample and convolve."""
        transposed = conv_transpose2d if x_NCHW.ndim == 4 else conv_transpose3d  # noqa: PLR2004 - (N, C, H, W)
        return transposed(x_NCHW, box(self.weight), self.bias, stride=2, padding=1)


class SmoothDown(nn.Module):
    """3x3 convolution followed by 2x2 averaging, computed as one 4x4 convolution of stride 2."""

    def __init__(self, c_in: int, c_out: int, dims: int = 2) -> None:
        """Map (N, c_in, 2H, 2W) to (N, c_out, H, W)."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *[3] * dims) * _RESIDUAL_GAIN / sqrt(3**dims * c_in))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Convolve and average."""
        dims = x_NCHW.ndim - 2
        plain = conv2d if dims == 2 else conv3d  # noqa: PLR2004 - (N, C, H, W)
        return plain(x_NCHW, box(self.weight) / 2**dims, self.bias, stride=2, padding=1)


def box(kernel_AB33: Tensor) -> Tensor:
    """3x3 kernels convolved with a 2x2 box of ones, 3x3x3 ones with 2x2x2: 4 a side."""
    dims = kernel_AB33.ndim - 2
    k = pad(kernel_AB33, [1] * (2 * dims))
    halves = (slice(1, None), slice(None, -1))
    corners = [k[(slice(None), slice(None), *corner)] for corner in product(halves, repeat=dims)]
    return sum(corners[1:], corners[0])


def up(resample: str, c_in: int, c_out: int, dims: int = 2) -> nn.Module:
    """x2 upsampling layer of one of the two kinds."""
    return SmoothUp(c_in, c_out, dims) if resample == "smooth" else _TRANSPOSED[dims](c_in, c_out, 4, 2, 1)


def down(resample: str, c_in: int, c_out: int, dims: int = 2) -> nn.Module:
    """x2 downsampling layer of one of the two kinds."""
    return SmoothDown(c_in, c_out, dims) if resample == "smooth" else _CONV[dims](c_in, c_out, 4, 2, 1)


def same(c_in: int, c_out: int, dims: int = 2) -> nn.Conv2d | nn.Conv3d:
    """3x3 convolution that keeps the size."""
    return _CONV[dims](c_in, c_out, 3, padding=1)


def batch_norm(channels: int, dims: int = 2) -> nn.Module:
    """Batch normalisation of maps."""
    return _BATCH_NORM[dims](channels)


class Residual(nn.Module):
    """x + W3 a(Wg a(W1 x)): 1x1, 3x3 grouped, 1x1, biases before the activations, no normalisation."""

    def __init__(self, channels: int, *, depth: int, expansion: int = 2, dims: int = 2) -> None:
        """`depth` counts the blocks of the network: W1 and Wg start scaled by depth^(-1/4), W3 at zero."""
        super().__init__()
        inner = max(_GROUP, channels * expansion)
        inner -= inner % _GROUP
        self.widen = _CONV[dims](channels, inner, 1)
        self.mix = _CONV[dims](inner, inner, 3, padding=1, groups=inner // _GROUP)
        self.narrow = _CONV[dims](inner, channels, 1, bias=False)
        scale = _RESIDUAL_GAIN * depth**-0.25
        for layer in (self.widen, self.mix):
            he_(layer, scale)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Add the block's correction."""
        correction: Tensor = self.narrow(activate(self.mix(activate(self.widen(x_NCHW)))))
        return x_NCHW + correction


class Condition(nn.Embedding):
    """Class, and where a model has them the features of other fields, to one vector an image."""

    def __init__(self, classes: int, features: int, dim: int) -> None:
        """`classes` classes and the null one, `features` numbers of other fields, vectors of `dim`."""
        super().__init__(classes + 1, dim)
        self.fields = nn.Linear(features, dim, bias=False) if features else None
        if self.fields is not None:
            nn.init.normal_(self.fields.weight)  # as loud as the class, or a short run never hears it

    def forward(self, c: Tensor) -> Tensor:
        """Map (N,) int64, or (N, 1 + features) float32 with the class in column 0, to (N, dim)."""
        if self.fields is None:
            return super().forward(c)
        whole: Tensor = super().forward(c[:, 0].long()) + self.fields(c[:, 1:])
        return whole


def he_(layer: nn.Conv2d | nn.Conv3d | nn.Linear, gain: float = _RESIDUAL_GAIN) -> None:
    """Normal weights of variance gain^2 / fan-in, zero bias."""
    nn.init.normal_(layer.weight, std=gain / sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
