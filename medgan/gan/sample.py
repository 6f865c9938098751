"""Images from a trained generator: seed and id decide the bytes, however the ids are grouped.

The latent of image `id` comes from Philox keyed by (seed, id). The network always runs on 16 rows with image `id` in
row `id % 16`, on one thread, so neither the order nor the company in which an id is asked for changes its bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import checkpoint
from medgan.gan.arithmetic import fixed
from medgan.gan.config import TrainConfig
from medgan.gan.generator import build
from medgan.gan.images import to_stored

if TYPE_CHECKING:
    from medgan.records.model import TrainedModel
    from medgan.settings import Zones

BATCH = 16
WEIGHTS, CONFIG = "generator.safetensors", "config.json"


class Sampler:
    """A generator on disk. Pickles as its folder and opens its weights where it is first used."""

    def __init__(self, folder: Path, *, sha256: str | None = None) -> None:
        """Open `folder`; `IntegrityError` when the weights are not those of `sha256`."""
        self.folder = folder
        self.sha256 = sha256
        self._network: nn.Module | None = None
        try:
            described = json.loads((folder / CONFIG).read_bytes())
            self.config = TrainConfig.from_json(described["config"])
            self.classes: tuple[str, ...] = tuple(described["classes"])
            self.attrs: dict[str, Any] = described["attrs"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidRequest("there is no finished model under this handle: train it first") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a path."""
        return _reopen, (self.folder, self.sha256)

    def images(self, ids: NDArray[np.int64], class_index: NDArray[np.int64], *, seed: int) -> NDArray[np.uint16]:
        """Stored images (N, H, W) uint16 for ids (N,) and class indices (N,)."""
        ids = np.asarray(ids, np.int64)
        class_index = np.asarray(class_index, np.int64)
        if ids.shape != class_index.shape or ids.ndim != 1 or (ids.size and ids.min() < 0):
            raise InvalidRequest("ids and class indices must be two lists of one length, and ids start at 0")
        if class_index.size and not 0 <= class_index.min() <= class_index.max() <= len(self.classes):
            raise InvalidRequest(f"a class index lies outside the {len(self.classes)} classes")
        size = self.config.size_px
        out = np.empty((len(ids), size, size), np.uint16)
        lo, hi = self.attrs["intensity_range"]
        order = np.argsort(ids // BATCH, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff((ids // BATCH)[order])) + 1) if ids.size else []
        with fixed(1), torch.inference_mode():
            for rows in groups:
                out[rows] = to_stored(self._group(ids[rows], class_index[rows], seed), lo, hi)
        return out

    def _group(self, ids: NDArray[np.int64], class_index: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
        """Images in [-1, 1] for ids of one aligned group of 16."""
        z_NZ = np.zeros((BATCH, self.config.latent_dim), np.float32)
        c_N = np.zeros(BATCH, np.int64)
        places = ids % BATCH
        if len(np.unique(places)) < len(places):
            raise InvalidRequest("an id is asked for twice")
        for place, image_id, index in zip(places, ids, class_index, strict=True):
            rng = np.random.Generator(np.random.Philox(key=[seed, int(image_id)]))
            z_NZ[place] = rng.standard_normal(self.config.latent_dim, dtype=np.float32)
            c_N[place] = index
        made: NDArray[np.float32] = self._open()(torch.from_numpy(z_NZ), torch.from_numpy(c_N))[:, 0].numpy()
        return made[places]

    def _open(self) -> nn.Module:
        if self._network is None:
            path = self.folder / WEIGHTS
            if self.sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
                raise IntegrityError("the generator's weights are not those the model record names: train again")
            network = build(self.config, len(self.classes))
            checkpoint.load_network(path, network)
            self._network = network.eval().requires_grad_(requires_grad=False)
        return self._network


def _reopen(folder: Path, sha256: str | None) -> Sampler:
    return Sampler(folder, sha256=sha256)


def open_generator(model: TrainedModel | str, *, zones: Zones) -> Sampler:
    """The sampler of a trained model, given its record or its handle."""
    if isinstance(model, str):
        return Sampler(zones.pseudonymised / "models" / model)
    return Sampler(zones.pseudonymised / "models" / model.model, sha256=model.generator_sha256)
