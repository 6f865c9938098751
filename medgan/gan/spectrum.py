"""Power by spatial frequency: what a generator is held to beside the critic's taste, in training and once after it.

A small critic leaves a generator soft at some frequencies and loud at others. In training, the mean power of a batch
is pulled to that of the training set, ring by ring (`pull`); after it, one small symmetric filter takes off what is
left of the moving average's error (`calibrate`). Both look at the mean power of the whole training set only: a few
numbers. A run under differential privacy sets `spectrum_weight` and `match_spectrum` to nothing, because those
numbers are not noised.

Legend: x is (N, 1, H, W) or (N, 1, D, H, W) in [-1, 1]; R rings of about one cycle an image; Q frequencies.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d, pad

if TYPE_CHECKING:
    from medgan.gan.parallel import World

TAPS = {2: 15, 3: 7}
"""Side of the filter: the least at which the radiographs' rings come within 0.1 dB."""
_SIDES = 8.0
"""No ring is made louder or softer than this (power ratio): a filter mends, it does not paint."""
_LEAST = 1e-3
"""A ring with less of its target than this is pulled as if it had so much: a flat image must not be torn."""
_ROUNDS = 8


@lru_cache(maxsize=4)
def _rings(size: int, dims: int) -> tuple[Tensor, Tensor]:
    """Window (size,) * dims, and means over rings (R, Q) of the half spectrum; corners beyond size/2 are rings too."""
    hann = np.hanning(size).astype(np.float32)
    window = hann
    for _ in range(dims - 1):
        window = window[..., None] * hann
    full, half = np.fft.fftfreq(size) * size, np.fft.rfftfreq(size) * size
    axes = np.meshgrid(*[full] * (dims - 1), half, indexing="ij")
    ring = np.rint(np.sqrt(sum(axis**2 for axis in axes))).astype(np.int64)
    # the half spectrum stands for its mirror image too, but for the first and last column
    twice = np.where((axes[-1] == 0) | (axes[-1] == size / 2), 1.0, 2.0)
    member = (ring.ravel() == np.arange(ring.max() + 1)[:, None]) * twice.ravel()
    mean = member / member.sum(1, keepdims=True)
    with torch.inference_mode(mode=False):  # kept for calls of every kind, training among them
        return torch.from_numpy(window), torch.from_numpy(mean.astype(np.float32))


def ring_power(x: Tensor) -> Tensor:
    """Mean power (R,) of a batch by ring, each image less its mean, under a Hann window; differentiable."""
    dims = x.ndim - 2
    window, mean = (part.to(x.device) for part in _rings(x.shape[-1], dims))
    plain = x[:, 0] - x.mean(tuple(range(1, x.ndim)), keepdim=True)[:, 0]
    power = torch.fft.rfftn(plain * window, dim=tuple(range(1, dims + 1))).abs().square().mean(0)
    rings: Tensor = mean @ power.flatten()
    return rings


def mean_power(parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """`ring_power` (R,) of many images, given in parts (n, H, W) or (n, D, H, W)."""
    powers = [(ring_power(torch.from_numpy(part)[:, None]).double().numpy(), len(part)) for part in parts]
    rings: NDArray[np.float64] = np.average([power for power, _ in powers], 0, [count for _, count in powers])
    return rings


def pull(x: Tensor, target_R: NDArray[np.float64], world: World) -> Tensor:
    """Weights (R,) such that sum(weights * ring_power(x)) has the gradient of mean (ln power - ln target)^2.

    The power is that of all processes' images, so that sharing a batch changes nothing. The ring of the mean is left
    alone.
    """
    with torch.no_grad():
        power = ring_power(x)
        world.average_([power])
        target = torch.from_numpy(target_R).to(power).clamp_min(1e-8)
        power = torch.maximum(power, _LEAST * target)
        weights = 2 * (power / target).log() / power / len(power)
        weights[0] = 0
    return weights


class Polish(nn.Module):
    """A symmetric filter of one channel, the identity until `calibrate` sets it. Edges are continued outward."""

    kernel: Tensor

    def __init__(self, dims: int) -> None:
        """Start as the identity."""
        super().__init__()
        taps = TAPS[dims]
        kernel = torch.zeros((1, 1, *[taps] * dims))
        kernel[(0, 0, *[taps // 2] * dims)] = 1
        self.register_buffer("kernel", kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Filter (N, 1, H, W) or (N, 1, D, H, W)."""
        dims = x.ndim - 2
        wide = pad(x, [self.kernel.shape[-1] // 2] * (2 * dims), mode="replicate")
        return conv2d(wide, self.kernel) if dims == 2 else conv3d(wide, self.kernel)  # noqa: PLR2004


def calibrate(polish: Polish, x: Tensor, target_R: NDArray[np.float64]) -> None:
    """Set the filter so that images `x`, clipped to [-1, 1] after it, have the ring powers `target_R`.

    The wanted gain of each ring is brought to the filter's support and corrected by what it then achieves. Small
    images keep the identity: a filter as wide as the image is no filter.
    """
    size, dims, taps = x.shape[-1], x.ndim - 2, polish.kernel.shape[-1]
    if taps > size // 2:
        return
    place = np.rint(np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.fft.fftfreq(size) * size] * dims)))).astype(int)
    gain_R = np.ones(len(target_R))
    with torch.no_grad():
        for _ in range(_ROUNDS):
            reached_R = ring_power(polish(x).clamp(-1, 1)).double().cpu().numpy()
            ratio_R = np.sqrt(np.maximum(target_R, 1e-8) / np.maximum(reached_R, 1e-8))
            ratio_R[0] = 1
            gain_R = np.clip(gain_R * ratio_R, _SIDES**-0.5, _SIDES**0.5)
            polish.kernel.copy_(torch.from_numpy(_support(gain_R[place], taps)).reshape(polish.kernel.shape))


def _support(gain: NDArray[np.float64], taps: int) -> NDArray[np.float32]:
    """The impulse response of a gain over frequencies, cut to `taps` a side, its sum 1: brightness stays."""
    response = np.fft.fftshift(np.fft.ifftn(gain).real)
    middle, reach = gain.shape[0] // 2, taps // 2
    cut = response[tuple(slice(middle - reach, middle + reach + 1) for _ in gain.shape)]
    kernel: NDArray[np.float32] = (cut / cut.sum()).astype(np.float32)
    return kernel
