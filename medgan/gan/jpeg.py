"""A narrow line: heavy JPEG, and the interval that every coefficient of its file stands for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.gan.measurement import Image, Measurement

_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """A narrow line: eight-bit baseline JPEG of low quality, as tele-diagnosis gets it."""

    name: ClassVar[str] = "compression"
    exact: ClassVar[bool] = True
    factor: int = 1
    quality_from: int = 8
    quality_to: int = 30

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Encode and decode at a quality drawn from the range, low ones more often: there is more to repair in them."""
        return self.at(image_HW, round(self.quality_from * (self.quality_to / self.quality_from) ** rng.random()))

    def at(self, image_HW: Image, quality: int) -> Measurement:
        """Encode and decode at one quality (1..95, as libjpeg counts)."""
        from PIL import Image as Pictures

        grey = np.rint(np.clip((image_HW + 1) * 127.5, 0, 255)).astype(np.uint8)
        file = io.BytesIO()
        Pictures.fromarray(grey).save(file, "JPEG", quality=quality)
        with Pictures.open(file) as picture:
            steps = np.array(picture.quantization[0], np.float64).reshape(8, 8)  # type: ignore[attr-defined]
            seen = (np.asarray(picture, np.float32) / np.float32(127.5)) - np.float32(1)
        shape = (image_HW.shape[0], image_HW.shape[1])
        return Measurement(seen=seen, shape=shape, level=float(steps.mean()) / 127.5, steps_88=steps)

    def naive(self, measured: Measurement) -> Image:
        """The decoded file."""
        return measured.seen

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Every block's coefficients back into the interval that the file's step says they came from.

        Files whose steps are not known are left alone.
        """
        return _inside(answer_NCHW, measured) if all(one.steps_88 is not None for one in measured) else answer_NCHW

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """How far coefficients lie outside of their interval, back in the image; 0 where all are inside."""
        answer = torch.from_numpy(answer_HW)[None, None]
        projected = self.project(answer, [measured])
        out: Image = (answer - projected)[0, 0].numpy()
        return out


_ROUNDING = 1.0
"""Grey levels by which a decoder's rounding to whole levels may move a coefficient: 3.5 standard deviations."""


def _inside(answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
    """Coefficients clamped to their intervals: half a step about a whole number of steps, and the decoder's rounding.

    Where level 0 lies in `seen` nobody knows, so the first coefficient, the block's mean, counts as it is. A decoder
    clips to 0..255, which takes a block's coefficients off their steps: twice the interval about what was decoded.
    """
    seen = torch.from_numpy(np.stack([one.seen for one in measured]))[:, None].to(answer_NCHW)
    steps = torch.from_numpy(np.stack([one.steps_88 * one.grey for one in measured if one.steps_88 is not None]))
    step = steps.to(answer_NCHW)[:, None, None, None]
    rounding = torch.tensor([_ROUNDING * one.grey for one in measured]).to(answer_NCHW)[:, None, None, None, None, None]
    wanted, decoded = _blocks(answer_NCHW), _blocks(seen)
    whole = torch.round(decoded / step) * step
    whole[..., 0, 0] = decoded[..., 0, 0]
    clipped = ((decoded - whole).abs() > 2 * rounding).any(-1, keepdim=True).any(-2, keepdim=True)
    middle = torch.where(clipped, decoded, whole)
    half = torch.where(clipped, step, step / 2 + rounding)
    return _unblocks(torch.clamp(wanted - middle, -half, half) + middle, answer_NCHW.shape)


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float32]:
    """Orthonormal 8-point DCT-II (ITU-T T.81 A.3.3)."""
    n = np.arange(_BLOCK)
    table = np.cos((2 * n + 1) * n[:, None] * np.pi / 16) / 2
    table[0] /= np.sqrt(2)
    return table.astype(np.float32)


def _blocks(x_NCHW: Tensor) -> Tensor:
    """Coefficients (N, C, H/8, W/8, 8, 8); sides are padded by their last row and column, as encoders do."""
    pad = [(-side) % _BLOCK for side in x_NCHW.shape[-2:]]
    padded = torch.nn.functional.pad(x_NCHW, (0, pad[1], 0, pad[0]), mode="replicate")
    tiles = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    table = torch.from_numpy(_cosines()).to(x_NCHW)
    return table @ tiles @ table.T


def _unblocks(coefficients: Tensor, shape: torch.Size) -> Tensor:
    table = torch.from_numpy(_cosines()).to(coefficients)
    tiles = table.T @ coefficients @ table
    n, c, rows, columns = tiles.shape[:4]
    return tiles.permute(0, 1, 2, 4, 3, 5).reshape(n, c, rows * 8, columns * 8)[..., : shape[2], : shape[3]]
