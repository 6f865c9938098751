"""Images from a trained generator: seed and id decide the bytes, however the ids are grouped.

An image may be asked for by class alone or also by the model's other fields: `sampler.fields` names them, and
`sampler.images(ids, classes, seed=7, conditions={"sex": ["F", "M", ""], "age_years": [61, 44.5, nan]})` gives a value
an image, empty or NaN where it is not to matter.

The latent of image `id` comes from Philox keyed by (seed, id). The network always runs on 16 rows with image `id` in
row `id % 16`, on one thread, so neither the order nor the company in which an id is asked for changes its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import checkpoint, conditions
from medgan.gan.arithmetic import fixed
from medgan.gan.conditions import encode, joined, width
from medgan.gan.config import TrainConfig
from medgan.gan.generator import build
from medgan.gan.images import to_stored
from medgan.gan.layers import channels_last

if TYPE_CHECKING:
    from medgan.records.model import TrainedModel
    from medgan.settings import Zones

BATCH = 16
WEIGHTS, CONFIG = "generator.safetensors", "config.json"
FORMAT = 2
"""Of config.json. 1 (and no number): a class is all there is. 2: `fields` beside it."""


class Sampler:
    """A generator on disk. Pickles as its folder and opens its weights where it is first used."""

    def __init__(self, folder: Path, *, sha256: str | None = None, precision: str = "fp32") -> None:
        """Open `folder`; `IntegrityError` when the weights are not those of `sha256`. `precision` decides bytes."""
        self.folder = folder
        self.sha256 = sha256
        self.precision = precision
        self._network: nn.Module | None = None
        try:
            described = json.loads((folder / CONFIG).read_bytes())
            self.config = TrainConfig.from_json(described["config"])
            self.classes: tuple[str, ...] = tuple(described["classes"])
            self.attrs: dict[str, Any] = described["attrs"]
            self.fields = conditions.from_json(described.get("fields", []))
            made_by = int(described.get("format", 1))
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidRequest("there is no finished model under this handle: train it first") from None
        if made_by > FORMAT:
            raise InvalidRequest(f"this model is of format {made_by}, of a newer medgan: this one reads up to {FORMAT}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a path."""
        return _reopen, (self.folder, self.sha256, self.precision)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image (H, W), of one volume (D, H, W)."""
        return (self.config.size_px,) * self.config.dims

    def images(
        self,
        ids: NDArray[np.int64],
        class_index: NDArray[np.int64],
        *,
        seed: int,
        conditions: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    ) -> NDArray[np.uint16]:
        """Stored images (N, H, W) uint16, volumes (N, D, H, W), for ids (N,) and class indices (N,).

        `conditions` has a list of N values for any of `fields`: text for a category ("" for any), a number for a
        quantity in its own unit (NaN for any). Fields that are left out are not conditioned on.

        Raises:
            InvalidRequest: lists of another length, a class, field or category that the model does not know.
            IntegrityError: the weights are not those that were asked for.
        """
        ids = np.asarray(ids, np.int64)
        class_index = np.asarray(class_index, np.int64)
        if ids.shape != class_index.shape or ids.ndim != 1 or (ids.size and ids.min() < 0):
            raise InvalidRequest("ids and class indices must be two lists of one length, and ids start at 0")
        if len(np.unique(ids)) < len(ids):
            raise InvalidRequest("an id is asked for twice")
        if class_index.size and not 0 <= class_index.min() <= class_index.max() <= len(self.classes):
            raise InvalidRequest(f"a class index lies outside the {len(self.classes)} classes")
        c = joined(class_index, encode(self.fields, conditions or {}, len(ids)))
        out = np.empty((len(ids), *self.shape), np.uint16)
        lo, hi = self.attrs["intensity_range"]
        with fixed(1), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            for rows in batches(ids):
                out[rows] = to_stored(self._group(ids[rows], c[rows], seed), lo, hi)
        return out

    def _group(self, ids: NDArray[np.int64], c: NDArray[Any], seed: int) -> NDArray[np.float32]:
        """Images in [-1, 1] for at most 16 ids, each with a place of its own."""
        z_NZ = np.zeros((BATCH, self.config.latent_dim), np.float32)
        c_rows = np.zeros((BATCH, *c.shape[1:]), c.dtype)
        places = ids % BATCH
        c_rows[places] = c
        for place, image_id in zip(places, ids, strict=True):
            rng = np.random.Generator(np.random.Philox(key=[seed, int(image_id)]))
            z_NZ[place] = rng.standard_normal(self.config.latent_dim, dtype=np.float32)
        made: NDArray[np.float32] = self._open()(torch.from_numpy(z_NZ), torch.from_numpy(c_rows))[:, 0].float().numpy()
        return made[places]

    def _open(self) -> nn.Module:
        if self._network is None:
            path = self.folder / WEIGHTS
            if self.sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
                raise IntegrityError("the generator's weights are not those the model record names: train again")
            network = build(self.config, len(self.classes), width(self.fields))
            checkpoint.load_network(path, network)
            # 1.3 to 1.5 times the images a CPU-second of the default layout (docs/adr/0071)
            network.to(memory_format=channels_last(self.config.dims))  # type: ignore[call-overload]  # torch's stub lacks this form
            self._network = network.eval().requires_grad_(requires_grad=False)
        return self._network


def batches(ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of `ids` in batches of at most 16, no two of a batch on the same place `id % 16`; neighbours stay together.

    A scattered few, drawn again, fill batches as well as a run of neighbours does.
    """
    order = np.lexsort((ids, ids % BATCH))
    place = (ids % BATCH)[order]
    starts = np.searchsorted(place, place)  # where each place's run begins
    turn = np.empty(len(ids), np.int64)
    turn[order] = np.arange(len(ids)) - starts
    by_turn = np.argsort(turn, kind="stable")
    return np.split(by_turn, np.flatnonzero(np.diff(turn[by_turn])) + 1) if len(ids) else []


def _reopen(folder: Path, sha256: str | None, precision: str) -> Sampler:
    return Sampler(folder, sha256=sha256, precision=precision)


def open_generator(model: TrainedModel | str, *, zones: Zones, precision: str = "fp32") -> Sampler:
    """The sampler of a trained model, given its record or its handle, in `fp32` or `bf16` arithmetic."""
    if isinstance(model, str):
        return Sampler(zones.pseudonymised / "models" / model, precision=precision)
    folder = zones.pseudonymised / "models" / model.model
    return Sampler(folder, sha256=model.generator_sha256, precision=precision)
