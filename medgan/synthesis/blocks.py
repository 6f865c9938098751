"""One block of a synthetic cohort: one shard, one atomic write, safe to run twice and on any worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from medgan.cohort.synthetic import CHUNK_IMAGES, SHARD_IMAGES, digests_of, open_images
from medgan.collection import durable
from medgan.gan import sample
from medgan.quality import classifier
from medgan.records import TrainedModel
from medgan.settings import Zones
from medgan.synthesis import draws, shard

FORMAT = 3
"""Raised whenever the same model and specification would give other bytes."""
DRAWN = "drawn"
_VOLUME_BLOCK_BYTES = 1 << 26

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows `start`..`start + len(ids)` of the array at `target`, drawn from `model` with `seed`.

    `ids` (n,) int64 name the latents, `class_index` (n,) int64 the classes, `conditions` the model's other fields.
    `recognise` (n,) bool: rows whose class the classifier has to see, or they are drawn again, up to `attempts` times.
    `source`: a cohort's array whose rows are kept where `fresh` (n,) is False.
    """

    target: Path
    model: TrainedModel
    zones: Zones
    seed: int
    precision: str
    start: int
    ids: Ids
    class_index: Ids
    conditions: dict[str, npt.NDArray[Any]]
    attempts: int = 0
    recognise: npt.NDArray[np.bool_] | None = None
    source: Path | None = None
    fresh: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Images of the block."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Written:
    """What a worker says of a block: its first row, its images, and their digests (see `cohort.synthetic`)."""

    start: int
    images: int
    digests: bytes


def create_images(path: Path, shape: tuple[int, ...], attributes: dict[str, Any], *, block_images: int) -> None:
    """Create the Zarr v3 group at `path` with the empty array `images` (N, H, W) uint16, a block a shard."""
    group = zarr.open_group(path, mode="a", zarr_format=3)
    shard.create_array(group, shape, attributes, chunk_rows=CHUNK_IMAGES, shard_rows=block_images)


def write(block: Block) -> Written:
    """Draw the block's images and write its shard, whole or not at all."""
    if block.source is None or block.fresh is None:
        made_NHW = _drawn(block)
    else:
        made_NHW = np.asarray(open_images(block.source)[block.start : block.start + len(block)], dtype=np.uint16)
        fresh = np.flatnonzero(block.fresh)
        made_NHW[fresh] = _images(block, fresh, block.ids[fresh])
    packed = shard.pack(made_NHW, chunk_rows=CHUNK_IMAGES, shard_rows=block_rows(block.target))
    durable.write_bytes(shard_path(block.target, block.start), packed)
    return Written(block.start, len(made_NHW), digests_of(made_NHW))


def _drawn(block: Block) -> npt.NDArray[np.uint16]:
    """All images of a block; where the classifier has a say, which draw was taken is written before the shard."""
    every = np.arange(len(block))
    made_NHW = _images(block, every, block.ids)
    if block.recognise is None:
        return made_NHW
    judge = classifier.of_model(block.model, block.zones)
    attrs = generator(block.model, block.zones, block.precision).attrs
    ids = block.ids.copy()
    seen = judge.sees(made_NHW, attrs, ids) == block.class_index
    for attempt in range(1, block.attempts + 1):
        rows = np.flatnonzero(block.recognise & ~seen)
        if not len(rows):
            break
        ids[rows] = draws.sample_id(block.ids[rows], attempt)
        made_NHW[rows] = _images(block, rows, ids[rows])
        seen[rows] = judge.sees(made_NHW[rows], attrs, ids[rows]) == block.class_index[rows]
    durable.write_bytes(drawn_path(block.target, block.start), draws.pack(ids, seen))
    return made_NHW


def _images(block: Block, rows: npt.NDArray[np.int64], ids: Ids) -> npt.NDArray[np.uint16]:
    """Images of some rows of the block, drawn with these ids."""
    sampler = generator(block.model, block.zones, block.precision)
    given = {name: values[rows] for name, values in block.conditions.items()}
    return sampler.images(ids, block.class_index[rows], seed=block.seed, conditions=given)


def kept(target: Path, start: int, stop: int, *, drawn: bool = False) -> bytes | None:
    """Digests of rows start..stop where their shard is whole (`drawn`: and its draws are there), else None."""
    if not shard_path(target, start).is_file() or (drawn and not drawn_path(target, start).is_file()):
        return None
    try:
        return digests_of(np.asarray(open_images(target)[start:stop], dtype=np.uint16))
    except (ValueError, RuntimeError, OSError):
        return None


def usual_images(shape: tuple[int, ...]) -> int:
    """Images of a block where nobody says: 1,024, of volumes as many as 64 MiB hold, in whole chunks."""
    if len(shape) == 2:  # noqa: PLR2004 - (H, W)
        return SHARD_IMAGES
    held = _VOLUME_BLOCK_BYTES // (2 * prod(shape))
    return min(max(held // CHUNK_IMAGES, 1) * CHUNK_IMAGES, SHARD_IMAGES)


def block_rows(target: Path) -> int:
    """Rows of a shard, which is a block."""
    return (open_images(target).shards or (SHARD_IMAGES,))[0]


def shard_path(target: Path, start: int) -> Path:
    """File of the shard that begins at row `start`."""
    array = open_images(target)
    number = start // (array.shards or (SHARD_IMAGES,))[0]
    return target.joinpath("images", "c", str(number), *["0"] * (array.ndim - 1))


def drawn_path(target: Path, start: int) -> Path:
    """File that says which draws the shard of row `start` holds."""
    return target.parent / DRAWN / f"{start}.npy"


@lru_cache(maxsize=2)
def generator(model: TrainedModel, zones: Zones, precision: str = "fp32") -> sample.Sampler:
    """The sampler of `model`, opened once a process."""
    return sample.open_generator(model, zones=zones, precision=precision)


def sees(target: Path, model: TrainedModel, zones: Zones) -> tuple[int, bool]:
    """What a worker has: its `FORMAT`, and whether the array and the model lie where the block says."""
    there = (target / "images" / "zarr.json").is_file() and os.access(target, os.W_OK)
    return FORMAT, there and (zones.pseudonymised / "models" / model.model / sample.WEIGHTS).is_file()
