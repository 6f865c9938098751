"""The training set: images as they are stored, one affine to [-1, 1], and an order that needs no state.

Intensity never passes through 8 bits: uint16 (or any integer) in, float32 to the network, uint16 out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.errors import InvalidRequest
from medgan.gan import conditions, spectrum


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """pixels: integers (N, S, S) or (N, S, S, S), array or memory map. class_index: int64.

    lo, hi: stored values that become -1 and 1. fields: conditions beside the class; features: what networks read of
    them, (N, F) float32 by `conditions.encode`. patients: whose each image is (N,); None: each is another person's.
    """

    pixels: NDArray[Any]
    class_index: NDArray[np.int64]
    classes: tuple[str, ...]
    lo: float
    hi: float
    fields: tuple[conditions.Field, ...] = ()
    features: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    patients: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse a set whose parts do not fit together."""
        shape = self.pixels.shape
        if len(shape) not in (3, 4) or len(set(shape[1:])) != 1 or not shape[0]:
            raise InvalidRequest("training images must be (N, size, size), volumes (N, size, size, size), N 1 or more")
        if len(self.class_index) != shape[0]:
            raise InvalidRequest(f"{shape[0]} images but {len(self.class_index)} class indices")
        if self.class_index.min() < 0 or self.class_index.max() >= len(self.classes):
            raise InvalidRequest(f"a class index lies outside the {len(self.classes)} classes")
        if self.patients is not None and len(self.patients) != shape[0]:
            raise InvalidRequest(f"{shape[0]} images but {len(self.patients)} patients")
        if not self.hi > self.lo:
            raise InvalidRequest("the intensity range is empty")
        if not self.fields:
            object.__setattr__(self, "features", np.empty((shape[0], 0), np.float32))
        if self.features.shape != (shape[0], conditions.width(self.fields)):
            raise InvalidRequest(f"features of shape {self.features.shape} do not fit {shape[0]} images")

    def people(self, rows: NDArray[np.int64]) -> int:
        """How many patients the images of these rows are of."""
        return len(rows) if self.patients is None else len(set(self.patients[rows].tolist()))

    @property
    def dims(self) -> int:
        """2 for images, 3 for volumes."""
        return self.pixels.ndim - 1

    @cached_property
    def ring_power(self) -> NDArray[np.float64]:
        """Mean power (R,) by spatial frequency over up to 4,096 evenly spaced images (see `spectrum`)."""
        return self._ring_power_of(np.arange(len(self.pixels)))

    @cached_property
    def class_ring_power(self) -> NDArray[np.float64]:
        """`ring_power` of each class and last of all images (classes + 1, R): what an index of a condition means."""
        return np.stack(
            [
                self._ring_power_of(rows) if len(rows := np.flatnonzero(self.class_index == index)) else self.ring_power
                for index in range(len(self.classes))
            ]
            + [self.ring_power]
        )

    def _ring_power_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), 4096)).round().astype(np.int64)]
        parts = np.array_split(chosen, -(-len(chosen) // 64))  # from a memory map, a little at a time
        return spectrum.mean_power(to_unit(self.pixels[part], self.lo, self.hi) for part in parts)

    def batch(self, indices_N: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Images (N, 1, H, W) float32 in about [-1, 1] and their class indices."""
        stored = np.asarray(self.pixels[indices_N], np.float32)
        return to_unit(stored, self.lo, self.hi)[:, None], self.class_index[indices_N]


def to_unit(stored: NDArray[Any], lo: float, hi: float) -> NDArray[np.float32]:
    """Stored values to float32, `lo` to -1 and `hi` to 1."""
    return (np.asarray(stored, np.float32) - np.float32(lo)) * np.float32(2 / (hi - lo)) - np.float32(1)


def to_stored(unit: NDArray[np.floating[Any]], lo: float, hi: float) -> NDArray[np.uint16]:
    """Inverse of `to_unit`, rounded once, kept within the window and uint16."""
    stored: NDArray[np.float32] = np.add(unit, np.float32(1), dtype=np.float32)  # 24 bits are eight more than are kept
    stored *= np.float32((hi - lo) / 2)
    stored += np.float32(lo)
    np.rint(stored, out=stored)
    return np.clip(stored, max(lo, 0), min(hi, 65535), out=stored).astype(np.uint16)


def indices(step: int, batch: int, count: int, seed: int) -> NDArray[np.int64]:
    """Indices (batch,) that step `step` shows: a fresh permutation an epoch, computed from counters alone."""
    place_N = np.arange(step * batch, (step + 1) * batch)
    epoch_N, offset_N = np.divmod(place_N, count)
    orders = [_permutation(seed, int(epoch), count)[offset_N[epoch_N == epoch]] for epoch in np.unique(epoch_N)]
    return np.concatenate(orders)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def read_plain(images: Path, labels: Path | None = None, *, names: Sequence[str] = ()) -> TrainingSet:
    """A set from .npy or .npz (arrays `images`, `labels`); the intensity window is the full range found.

    `names` are further arrays of an .npz that become conditions; every image counts as a patient of its own unless
    there is an array `patients`. `InvalidRequest` when the file holds something else. Nothing is unpickled.
    """
    loaded = np.load(images, mmap_mode="r", allow_pickle=False)
    columns: dict[str, NDArray[Any]] = {}
    if isinstance(loaded, np.ndarray):
        pixels = loaded
        index = np.load(labels, allow_pickle=False) if labels else np.zeros(len(pixels), np.int64)
    else:
        with loaded:
            if "images" not in loaded:
                raise InvalidRequest("an .npz for training holds an array `images` and, with classes, `labels`")
            pixels = loaded["images"]
            index = loaded["labels"] if "labels" in loaded else np.zeros(len(pixels), np.int64)
            columns = {name: loaded[name] for name in (*names, "patients") if name in loaded}
    if any(columns.get(name, np.empty(0)).shape != pixels.shape[:1] for name in names):
        raise InvalidRequest("a condition is an array of the .npz with one value an image")
    if not np.issubdtype(pixels.dtype, np.integer):
        raise InvalidRequest("training images are stored as integers, so that nothing is quantised twice")
    index = np.asarray(index, np.int64).reshape(-1)
    patients = columns.pop("patients", np.arange(len(pixels)))
    fields, features = conditions.learn_all(columns, patients)
    return TrainingSet(
        patients=patients,
        fields=fields,
        features=features,
        pixels=pixels,
        class_index=index,
        classes=tuple(str(value) for value in range(int(index.max(initial=0)) + 1)),
        lo=float(pixels.min()),
        hi=float(pixels.max()),
    )
