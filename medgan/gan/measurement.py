"""What was seen of an image, and what every degradation can say about it.

Images are (H, W) float32 in about [-1, 1]; -1 is no signal. Each degradation gives a measurement, a plain way back to
the image's grid (`naive`, what people do without a network), the part of an answer that contradicts the measurement
(`residual`), and where the forward operator is known the nearest answer that does not (`project`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.float32]

SIGNAL = 0.02
"""So far above no signal a pixel holds something: air, whose errors are nothing, would make any answer look good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was seen of one image.

    `seen` (h, w) float32 on the measurement's own grid; `shape` (H, W) of the image that is asked for; `hole` (H, W) is
    True where nothing was seen; `level` says how strong the degradation is (noise: its sigma in units of `seen`);
    `steps_88` are the quantisation steps of a JPEG file in its grey levels, where they are known, and `grey` is what
    one of those levels is in `seen`. A magnitude image knows its `floor`, the value of no signal, below which no truth
    lies; -inf where that is not known.
    """

    seen: Image
    shape: tuple[int, int]
    hole: NDArray[np.bool_] | None = None
    level: float = 0.0
    steps_88: NDArray[np.float64] | None = None
    grey: float = 1 / 127.5
    floor: float = -1.0


class Degradation(Protocol):
    """A named degradation. `factor` is how many times finer the answer's grid is than the measurement's."""

    name: ClassVar[str]
    exact: ClassVar[bool]

    @property
    def factor(self) -> int:
        """How many times finer the answer's grid is."""
        ...

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Degrade one image; its strength is drawn from `rng`."""
        ...

    def naive(self, measured: Measurement) -> Image:
        """(H, W) on the answer's grid without any knowledge of images."""
        ...

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """The nearest answers that agree with their measurements; differentiable."""
        ...

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """A(answer) - seen, on the measurement's grid, in the units of `seen`."""
        ...


def not_below_floor(answer_NCHW: Tensor, measured: Sequence[Measurement]) -> Tensor:
    """Each answer without values below its measurement's floor."""
    floor_N = torch.tensor([one.floor for one in measured]).to(answer_NCHW)
    return torch.maximum(answer_NCHW, floor_N[:, None, None, None])
