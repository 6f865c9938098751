"""MR with only the centre of k-space acquired: cropping, zero-filling, and putting the acquired part back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.gan.measurement import Image, Measurement, not_below_floor

_ROUNDS, _ROUNDS_IN_TRAINING, _RELAXATION = 32, 8, 1.9
"""Each round brings an answer nearer to the truth, by less and less; gradients through all of them would cost more."""


@lru_cache(maxsize=8)
def crop_matrix(size: int, small: int) -> NDArray[np.float32]:
    """(small, size): keep the `small` lowest frequencies of a line and give it on `small` samples, mean kept.

    The sole coefficient at an even line's highest frequency takes both of its twins, so that `fill_matrix` is an
    exact right inverse: crop @ fill = identity.
    """
    lines = np.fft.fft(np.eye(size), axis=0)
    half = small // 2
    rows = [*range(half + small % 2), *range(size - half, size)]
    kept = lines[rows]
    if small % 2 == 0 and small < size:
        kept[half] += lines[half]
    real: NDArray[np.float32] = (np.fft.ifft(kept, axis=0).real * (small / size)).astype(np.float32)
    return real


@lru_cache(maxsize=8)
def fill_matrix(size: int, small: int) -> NDArray[np.float32]:
    """(size, small): the band-limited line through `small` samples on `size` samples (zero-filled k-space)."""
    lines = np.fft.fft(np.eye(small), axis=0)
    half = small // 2
    filled = np.zeros((size, small), complex)
    filled[: half + small % 2] = lines[: half + small % 2]
    filled[size - half :] = lines[small - half :]
    if small % 2 == 0 and small < size:
        filled[size - half] /= 2
        filled[half] = filled[size - half]
    real: NDArray[np.float32] = (np.fft.ifft(filled, axis=0).real * (size / small)).astype(np.float32)
    return real


def _both(rows: NDArray[np.float32], columns: NDArray[np.float32], image: Image) -> Image:
    out: Image = (rows @ image @ columns.T).astype(np.float32)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class KSpaceCrop:
    """MR super-resolution: only the central 1/`factor` of k-space along both axes was acquired."""

    name: ClassVar[str] = "super-resolution"
    exact: ClassVar[bool] = True
    factor: int = 2

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:  # noqa: ARG002 - nothing is random
        """Crop k-space; sides that `factor` does not divide are cut first by whoever calls."""
        height, width = image_HW.shape
        small = height // self.factor, width // self.factor
        seen = _both(crop_matrix(height, small[0]), crop_matrix(width, small[1]), image_HW)
        return Measurement(seen=seen, shape=(height, width))

    def naive(self, measured: Measurement) -> Image:
        """Zero-filled k-space."""
        rows, columns = (fill_matrix(*pair) for pair in zip(measured.shape, measured.seen.shape, strict=True))
        return _both(rows, columns, measured.seen)

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Put the acquired part of k-space back: answer - fill (crop answer - seen), and lift what is below no signal.

        Both are projections onto convex sets that hold the truth, so each round brings an answer nearer to it, whoever
        made it; the acquired part has the last word. The lift is over-relaxed, as may be done up to 2 (Youla and Webb
        1982): half as many rounds.
        """
        answer = self._acquired(answer_NCHW, measured)
        for _ in range(_ROUNDS_IN_TRAINING if torch.is_grad_enabled() else _ROUNDS):
            lift = not_below_floor(answer, measured) - answer
            answer = self._acquired(answer + _RELAXATION * lift, measured)
        return answer

    def _acquired(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        pairs = list(zip(measured[0].shape, measured[0].seen.shape, strict=True))
        fill_rows, fill_columns = (torch.from_numpy(fill_matrix(*pair)).to(answer_NCHW.device) for pair in pairs)
        crop_rows, crop_columns = (torch.from_numpy(crop_matrix(*pair)).to(answer_NCHW.device) for pair in pairs)
        seen = torch.from_numpy(np.stack([one.seen for one in measured]))[:, None].to(answer_NCHW)
        return answer_NCHW - fill_rows @ (crop_rows @ answer_NCHW @ crop_columns.T - seen) @ fill_columns.T

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """Cropped answer minus what was acquired."""
        rows, columns = (crop_matrix(*pair) for pair in zip(measured.shape, measured.seen.shape, strict=True))
        return _both(rows, columns, answer_HW) - measured.seen
