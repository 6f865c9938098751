"""A trained restorer at work: one image in, the answer out, with what it invented and how far it may be wrong.

Where the forward operator is known the answer agrees with what was measured (`answer` is the same in training). A
folder holds one model: weights, and `restorer.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import checkpoint
from medgan.gan.arithmetic import fixed
from medgan.gan.degrade import TASKS
from medgan.gan.familiar import Familiar
from medgan.gan.filled import depths
from medgan.gan.measurement import Degradation, Image, Measurement
from medgan.gan.noise import noise_level
from medgan.gan.recipes import fast_precision
from medgan.gan.restore_config import CODE_VERSION, LEAST_PX, RestoreConfig
from medgan.gan.restorer import Unet, log_scale
from medgan.gan.scans import by_percentiles, window_of

WEIGHTS, DESCRIPTION = "restorer.safetensors", "restorer.json"
_GRAINY = {"denoise", "low-dose"}


def looked_at(degradation: Degradation, image_HW: Image) -> Image:
    """What is compared with what is familiar: an image by its own percentiles, smoothed where noise is to be undone.

    Inputs with grain of every strength would make the grain of anything familiar.
    """
    shown = by_percentiles(image_HW)
    return gaussian_filter(shown, 1.0) if degradation.name in _GRAINY else shown


def network_input(degradation: Degradation, measured: Sequence[Measurement]) -> Tensor:
    """(N, 3, H, W): the naive answer, where the holes are, and how strong the degradation seems to be."""
    parts = []
    for one in measured:
        naive = degradation.naive(one)
        hole = np.zeros_like(naive) if one.hole is None else one.hole.astype(np.float32)
        if degradation.name in _GRAINY:
            level = 4 * noise_level(one.seen)
        else:
            level = 0.0 if one.steps_88 is None else 4 * one.level
        parts.append(np.stack([naive, hole, np.full_like(naive, level)]))
    return torch.from_numpy(np.stack(parts))


Views = tuple[tuple[int, ...], ...]
FLIPS: Views = ((), (2,), (3,), (2, 3))
"""In use the network sees an image in four ways and the mean counts: its chance errors differ (Timofte et al. 2016)."""


def answer(
    network: torch.nn.Module, degradation: Degradation, measured: list[Measurement], views: Views = FLIPS
) -> tuple[Tensor, ...]:
    """(image, log error scale, naive), each (N, 1, H, W) float32; the image agrees with what was measured.

    The mean over `views` (axes to mirror) counts; while gradients are taken there is one.
    """
    given = network_input(degradation, measured)
    layout = torch.channels_last if fast_precision() == "bf16" else torch.contiguous_format
    turned = views[:1] if torch.is_grad_enabled() else views
    out = torch.zeros((len(given), 2, *given.shape[2:]))
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_precision() == "bf16"):
        for axes in turned:
            made = network(given.flip(axes).contiguous(memory_format=layout)).float()
            out = out + made.flip(axes) / len(turned)
    image = degradation.project(given[:, :1] + out[:, :1], measured)
    return image, log_scale(out[:, 1:]), given[:, :1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """One restored image in the units it came in.

    `image`, `naive`, `uncertainty` (H, W) float32: the answer, the plain one, and a bound that 95 % of the errors in
    tissue kept below, in nine of ten held-out images. `invented_share` is the energy of what the network added to the
    plain answer, relative to the image's own; `inconsistency` is the root mean square of A(answer) - seen, as a share
    of the window. `guessed_share` is the share of a hole's pixels that lie deeper in it than fillings were found to be
    similar to the truth. `distance` says how far the input lay from what was learned from (beyond `limit` it would have
    been refused).
    """

    image: Image
    naive: Image
    uncertainty: Image
    invented_share: float
    inconsistency: float
    guessed_share: float
    distance: float
    limit: float


class Unfamiliar(InvalidRequest):
    """The input lies too far from what the model has learned from: it would be turned into what the model knows."""

    kind = "unfamiliar"


class Restorer:
    """A trained restorer on disk."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`: InvalidRequest when there is no finished model, IntegrityError when weights were changed."""
        try:
            described = json.loads((folder / DESCRIPTION).read_bytes())
            made_by = described.get("code_version")
            self.config = RestoreConfig.from_json(described["config"])
            self.attrs: dict[str, Any] = described["attrs"]
            self.factor = float(described["uncertainty_factor"])
            self.familiar = Familiar.from_json(described["familiar"])
            self.held_out: dict[str, float] = described["held_out"]
            self.planted: dict[str, float] = described["planted"]
            self.filled: dict[str, Any] = described.get("filled") or {}  # none before version 8
            self.sha256: str = described["weights_sha256"]
            weights = (folder / WEIGHTS).read_bytes()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InvalidRequest("there is no finished restorer in this folder: train one first") from None
        if made_by != CODE_VERSION:
            raise InvalidRequest(
                "this restorer belongs to another version, whose inputs or limits differ: train it again"
            )
        if hashlib.sha256(weights).hexdigest() != self.sha256:
            raise IntegrityError("the restorer's weights are not those its description names: train it again")
        self.folder = folder
        self.degradation = TASKS[self.config.task].degradation
        self.network = Unet(self.config.shape)
        checkpoint.load_network(folder / WEIGHTS, self.network)
        self.network.eval().requires_grad_(requires_grad=False)

    def restore(
        self,
        values_HW: NDArray[Any],
        *,
        hole_HW: NDArray[np.bool_] | None = None,
        steps_88: NDArray[np.float64] | None = None,
        grey: float = 1.0,
        window: tuple[float, float] | None = None,
        refuse: bool = True,
    ) -> Restored:
        """Restore one image (H, W) of any numeric type and unit; sides at least 32 px.

        `window` fixes which values are -1 and 1 (the model's own, or the image's percentiles, where empty).
        `hole_HW` marks what is to be inpainted; `steps_88` are a JPEG file's quantisation steps, when they are known,
        in its grey levels, of which one is `grey` in the image's unit.

        Raises:
            Unfamiliar: the image is no such image as the model learned from (unless `refuse` is False).
            InvalidRequest: an image too small, not finite, or a task that misses its hole.
        """
        values = np.asarray(values_HW, np.float64)
        if values.ndim != 2 or min(values.shape) < LEAST_PX or not np.isfinite(values).all():  # noqa: PLR2004 - a plane
            raise InvalidRequest(f"an image to restore is a plane of finite values, at least {LEAST_PX} px each way")
        lo, hi = window or self.attrs.get("window") or window_of(values, hole_HW)
        unit = ((values - lo) * (2 / (hi - lo)) - 1).astype(np.float32)
        measured = self._measured(unit, hole_HW, steps_88, grey * 2 / (hi - lo))
        if values.min() >= 0:  # a magnitude: nothing is darker than no signal
            measured = replace(measured, floor=-2 * lo / (hi - lo) - 1)
        shown = unit if measured.hole is None else self.degradation.naive(measured)
        distance = self.strangeness(shown)
        if refuse and distance > self.familiar.limit:
            raise Unfamiliar(
                f"the image lies {distance:.2f} times as far from what this restorer learned from as is allowed: "
                "use a restorer that was trained on such images"
            )
        image, naive, bound = self.undo(measured)
        residual = self.degradation.residual(image, measured)
        half = (hi - lo) / 2
        return Restored(
            image=((image + 1) * half + lo).astype(np.float32),
            naive=((naive + 1) * half + lo).astype(np.float32),
            uncertainty=(bound * half).astype(np.float32),
            invented_share=float(np.square(image - naive).sum() / max(np.square(image - image.mean()).sum(), 1e-12)),
            inconsistency=float(np.sqrt(np.mean(np.square(residual.astype(np.float64))))) / 2,
            guessed_share=0.0
            if measured.hole is None
            else float((depths(measured.hole)[measured.hole] > self.filled["trusted_px"]).mean()),
            distance=distance,
            limit=self.familiar.limit,
        )

    def strangeness(self, image_HW: Image) -> float:
        """How far an image of any window lies from what was learned from; beyond `familiar.limit` it is refused."""
        return self.familiar.distance(looked_at(self.degradation, image_HW))

    def undo(self, measured: Measurement) -> tuple[Image, Image, Image]:
        """(answer, plain answer, bound of its error), each (H, W), in the units of the measurement."""
        with fixed(self.config.threads), torch.inference_mode():
            image, scale, naive = (part[0, 0].numpy() for part in answer(self.network, self.degradation, [measured]))
        return image, naive, bound_of(self.degradation, measured, image, scale, self.factor)

    def _measured(
        self, unit: Image, hole_HW: NDArray[np.bool_] | None, steps_88: NDArray[np.float64] | None, grey: float
    ) -> Measurement:
        height, width = (side * self.degradation.factor for side in unit.shape)
        if self.degradation.name == "inpaint":
            if hole_HW is None or hole_HW.shape != unit.shape:
                raise InvalidRequest(
                    "inpainting needs a mask of the image's size that is true where it is to be filled"
                )
            unit = np.where(hole_HW, np.float32(-1), unit).astype(np.float32)
        level = 0.0 if steps_88 is None else float(steps_88.mean()) * grey
        return Measurement(
            seen=unit,
            shape=(height, width),
            hole=hole_HW if self.degradation.name == "inpaint" else None,
            level=level,
            steps_88=steps_88 if self.degradation.name == "compression" else None,
            grey=grey,
            floor=-np.inf,
        )


def bound_of(degradation: Degradation, measured: Measurement, image_HW: Image, scale_HW: Image, factor: float) -> Image:
    """(H, W) bound of an answer's error: `factor` times what is expected, plus what contradicts the measurement."""
    bound = factor * np.exp(scale_HW)
    if degradation.exact:
        bound = bound + np.abs(_on_grid(degradation.residual(image_HW, measured), image_HW.shape))
    if measured.hole is not None:
        bound = np.where(measured.hole, bound, 0)
    return bound.astype(np.float32)


def _on_grid(residual: Image, shape: tuple[int, ...]) -> Image:
    """A residual on the answer's grid, each value repeated."""
    factor = shape[0] // residual.shape[0]
    return np.kron(residual, np.ones((factor, factor), np.float32)) if factor > 1 else residual
