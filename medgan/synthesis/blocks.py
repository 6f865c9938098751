"""One block of a synthetic cohort: one shard, one atomic write, safe to run twice and on any worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.cohort.synthetic import CHUNK_IMAGES, SHARD_IMAGES, open_images
from medgan.collection import durable
from medgan.gan import sample
from medgan.quality import classifier
from medgan.records import TrainedModel
from medgan.settings import Zones
from medgan.synthesis import draws

FORMAT = 2
"""Raised whenever the same model and specification would give other bytes."""
DRAWN = "drawn"

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


def create_images(
    path: Path, count: int, size_px: int, attributes: dict[str, Any], *, block_images: int = SHARD_IMAGES
) -> None:
    """Create the Zarr v3 group at `path` with the empty array `images` (count, size_px, size_px) uint16."""
    create_array(
        zarr.open_group(path, mode="a", zarr_format=3), (count, size_px, size_px), attributes, block_images=block_images
    )


def create_array(
    group: zarr.Group, shape: tuple[int, ...], attributes: dict[str, Any], *, block_images: int
) -> zarr.Array[Any]:
    """The array `images` (N, H, W) of `group`: chunk of 16, a block a shard, a checksum in every chunk."""
    return group.create_array(
        "images",
        shape=shape,
        dtype="uint16",
        chunks=(CHUNK_IMAGES, *shape[1:]),
        shards=(block_images, *shape[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2), Crc32cCodec()],
        fill_value=0,
        attributes=attributes,
    )


def write(block: Block) -> int:
    """Draw the block's images and write its shard; returns the images made. Zarr renames a shard into place."""
    if block.source is None or block.fresh is None:
        made_NHW = _drawn(block)
    else:
        made_NHW = np.asarray(open_images(block.source)[block.start : block.start + len(block)], dtype=np.uint16)
        fresh = np.flatnonzero(block.fresh)
        made_NHW[fresh] = _images(block, fresh, block.ids[fresh])
    open_images(block.target, mode="r+")[block.start : block.start + len(block)] = made_NHW
    return len(made_NHW)


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


def is_whole(target: Path, start: int, stop: int, *, drawn: bool = False) -> bool:
    """Whether the shard of rows start..stop stands there with every checksum intact (`drawn`: and its draws)."""
    if not shard_path(target, start).is_file() or (drawn and not drawn_path(target, start).is_file()):
        return False
    try:
        open_images(target)[start:stop]
    except (ValueError, RuntimeError, OSError):
        return False
    return True


def shard_path(target: Path, start: int) -> Path:
    """File of the shard that begins at row `start`."""
    shards = open_images(target).shards
    return target / "images" / "c" / str(start // (shards[0] if shards else SHARD_IMAGES)) / "0" / "0"


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
