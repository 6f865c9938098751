"""One block of a synthetic cohort: one shard, one atomic write, safe to run twice and on any worker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.cohort.synthetic import CHUNK_IMAGES, SHARD_IMAGES, open_images
from medgan.gan import sample
from medgan.records import TrainedModel
from medgan.settings import Zones


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows `start`..`start + len(class_index)` of the array at `target`, drawn from `model` with `seed`.

    `ids` (n,) int64 name the latents, `class_index` (n,) int64 the conditions.
    """

    target: Path
    model: TrainedModel
    zones: Zones
    seed: int
    start: int
    ids: npt.NDArray[np.int64]
    class_index: npt.NDArray[np.int64]


def create_images(path: Path, count: int, size_px: int, attributes: dict[str, Any]) -> None:
    """Create the Zarr v3 group at `path` with the empty array `images` (count, size_px, size_px) uint16."""
    group = zarr.open_group(path, mode="a", zarr_format=3)
    group.create_array(
        "images",
        shape=(count, size_px, size_px),
        dtype="uint16",
        chunks=(CHUNK_IMAGES, size_px, size_px),
        shards=(SHARD_IMAGES, size_px, size_px),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2), Crc32cCodec()],
        fill_value=0,
        attributes=attributes,
    )


def write(block: Block) -> int:
    """Draw the block's images and write its shard; returns the images made. Zarr renames a shard into place."""
    made_NHW = generator(block.model, block.zones).images(block.ids, block.class_index, seed=block.seed)
    open_images(block.target, mode="r+")[block.start : block.start + len(made_NHW)] = made_NHW
    return len(made_NHW)


def is_whole(target: Path, start: int, stop: int) -> bool:
    """Whether the shard of rows start..stop stands there with every checksum intact."""
    if not shard_path(target, start).is_file():
        return False
    try:
        open_images(target)[start:stop]
    except (ValueError, RuntimeError, OSError):
        return False
    return True


def shard_path(target: Path, start: int) -> Path:
    """File of the shard that begins at row `start`."""
    return target / "images" / "c" / str(start // SHARD_IMAGES) / "0" / "0"


@lru_cache(maxsize=2)
def generator(model: TrainedModel, zones: Zones) -> sample.Sampler:
    """The sampler of `model`, opened once a process."""
    return sample.open_generator(model, zones=zones)
