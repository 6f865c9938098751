"""One block of a synthetic cohort: one shard, one atomic write, safe to run twice and on any worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr

from medgan import cluster
from medgan.cohort.stored import IMAGES, MASKS, STRUCTURES
from medgan.cohort.synthetic import CHUNK_IMAGES, SHARD_IMAGES, digests_of, open_images, open_masks
from medgan.collection import durable
from medgan.errors import StoreUnavailable
from medgan.gan import outliner, sample
from medgan.quality import classifier
from medgan.records import TrainedModel
from medgan.settings import Zones
from medgan.synthesis import draws, shard

FORMAT = 3
"""Raised whenever the same model and specification would give other bytes."""
_VERSION = cluster.code(("synthesis", "gan", "quality", "cohort", "records"))
"""Digest of the code that decides what a block holds, as this process imported it."""
DRAWN = "drawn"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows `start`..`start + len(ids)` of the array at `target`, drawn from `model` with `seed`: its file `shard`.

    `ids` (n,) int64 name the latents, `class_index` (n,) int64 the classes, `conditions` the model's other fields.
    `recognise` (n,) bool: rows whose class the classifier has to see, or they are drawn again, up to `attempts` times.
    `source`: a cohort's array whose rows are kept where `fresh` (n,) is False.
    """

    target: Path
    shard: Path
    shard_rows: int
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


class Digests(NamedTuple):
    """Of a block's images and of their masks (see `cohort.synthetic`); none of masks where there are none."""

    images: bytes
    masks: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """What a worker says of a block: its first row, its images, their digests (see `cohort.synthetic`), its time."""

    start: int
    images: int
    digests: Digests
    seconds: float


def create_images(
    path: Path,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    *,
    block_images: int,
    structures: Sequence[str] = (),
) -> None:
    """Create the Zarr v3 group at `path` with the empty array `images` (N, H, W) uint16, a block a shard.

    Where there are `structures`, the array `masks` (N, H, W) uint8 stands there before it, with the same shards.
    """
    group = zarr.open_group(path, mode="a", zarr_format=3)
    create = partial(shard.create_array, group, shape, chunk_rows=CHUNK_IMAGES, shard_rows=block_images)
    if structures:
        create({STRUCTURES: list(structures)}, name=MASKS)
    create(attributes)


def write_stretch(stretch: Sequence[Block]) -> list[Written]:
    """Write blocks one after the other; one that stands already, because a worker died behind it, stays."""
    told = []
    for block in stretch:
        started = time.perf_counter()
        digests = kept(block)
        if digests is None:
            digests = write(block)
        told.append(Written(block.start, len(block), digests, time.perf_counter() - started))
    return told


def write(block: Block) -> Digests:
    """Draw the block's images and masks, and write its shards, whole or not at all, that of the images last."""
    if block.source is None or block.fresh is None:
        made_NHW = _drawn(block)
    else:
        made_NHW = np.asarray(open_images(block.source)[block.start : block.start + len(block)], dtype=np.uint16)
        fresh = np.flatnonzero(block.fresh)
        made_NHW[fresh] = _images(block, fresh, block.ids[fresh])
    pack = partial(shard.pack, chunk_rows=CHUNK_IMAGES, shard_rows=block.shard_rows)
    packed, network, masks = pack(made_NHW), outliner.of_model(block.model, block.zones), b""
    if not (block.target / IMAGES / "zarr.json").is_file():
        raise StoreUnavailable("the cohort that this block is of is gone or finished: run again")
    if network is not None:
        attrs = generator(block.model, block.zones, block.precision).attrs
        masks_NHW = outliner.outlined(network, made_NHW, attrs)
        durable.write_bytes(masks_shard(block.target, block.shard), pack(masks_NHW))
        masks = digests_of(masks_NHW)
    durable.write_bytes(block.shard, packed)
    return Digests(digests_of(made_NHW), masks)


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


def kept(block: Block) -> Digests | None:
    """Digests of the block's rows where their shards are whole, and what was drawn for them is told, else None."""
    told = block.recognise is None or drawn_path(block.target, block.start).is_file()
    if not told or not block.shard.is_file():
        return None
    try:
        rows = slice(block.start, block.start + len(block))
        images = digests_of(np.asarray(open_images(block.target)[rows], dtype=np.uint16))
        if block.model.outliner is None:
            return Digests(images, b"")
        if not masks_shard(block.target, block.shard).is_file():
            return None
        return Digests(images, digests_of(np.asarray(open_masks(block.target)[rows], dtype=np.uint8)))
    except (ValueError, RuntimeError, OSError):
        return None


def parts(target: Path) -> Iterator[tuple[slice, Path, int]]:
    """Rows, file, and rows when full, of every shard of the array, which is a block."""
    array = open_images(target)
    size = (array.shards or (SHARD_IMAGES,))[0]
    inner = ["0"] * (array.ndim - 1)
    for number, start in enumerate(range(0, array.shape[0], size)):
        rows = slice(start, min(start + size, array.shape[0]))
        yield rows, target.joinpath(IMAGES, "c", str(number), *inner), size


def masks_shard(target: Path, images_shard: Path) -> Path:
    """File of the masks of the images that a file holds."""
    return target / MASKS / images_shard.relative_to(target / IMAGES)


def structures_of(model: TrainedModel) -> tuple[str, ...]:
    """What masks of this model's images tell apart; () where it draws none."""
    return () if model.outliner is None else model.outliner.structures


def drawn_path(target: Path, start: int) -> Path:
    """File that says which draws the shard of row `start` holds."""
    return target.parent / DRAWN / f"{start}.npy"


@lru_cache(maxsize=2)
def generator(model: TrainedModel, zones: Zones, precision: str = "fp32") -> sample.Sampler:
    """The sampler of `model`, opened once a process."""
    return sample.open_generator(model, zones=zones, precision=precision)


def version() -> str:
    """Digest of the code that draws here."""
    return _VERSION


def sees(target: Path, model: TrainedModel, zones: Zones) -> tuple[str, bool]:
    """What a worker has: its `version`, and whether the array and the model lie where the block says."""
    there = (target / IMAGES / "zarr.json").is_file() and os.access(target, os.W_OK)
    return version(), there and (zones.pseudonymised / "models" / model.model / sample.WEIGHTS).is_file()
