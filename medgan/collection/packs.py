"""Packs: frames of one shape and integer type share one growing array (docs/adr on packing).

A chunk is the unit of compression and of a random read, a shard the unit of storage: a hundred thousand small
images are a few dozen objects, and a volume is a contiguous run of rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.collection import layout
from medgan.errors import IntegrityError

CHUNK_BYTES = 256 * 1024
SHARD_BYTES = 16 * 1024 * 1024
CACHE_BYTES = 128 * 1024 * 1024
"""Decoded blocks that a reader keeps, all packs together."""

Frame = npt.NDArray[Any]


def append(root: zarr.Group, kind: str, frames: Iterable[Frame]) -> int:
    """Append frames of one kind to their pack, a shard at a time; returns the index of the first one."""
    array: zarr.Array[Any] | None = _pack(root, kind)
    start = position = 0 if array is None else array.shape[0]
    block: list[Frame] = []
    for frame in frames:
        if array is None:
            array = _create(root, kind, frame)
        block.append(frame)
        if (position + len(block)) % _shard_frames(array) == 0:
            position = _write(array, position, block)
            block = []
    if array is not None and block:
        _write(array, position, block)
    return start


def blank(root: zarr.Group, kind: str, indices: Iterable[int]) -> None:
    """Overwrite single frames with zeros: what an erased patient leaves behind."""
    array = _pack(root, kind)
    if array is None:
        return
    for first, last in _runs(sorted(indices)):
        array[first : last + 1] = np.zeros((last + 1 - first, *array.shape[1:]), array.dtype)


def frames(root: zarr.Group, rows: pd.DataFrame) -> Iterator[Frame]:
    """The frames of `rows` (columns `pack`, `pack_index`) in row order, each (rows, columns[, 3]) integer.

    Whole blocks are read and the last ones kept, so rows in pack order cost one decode a chunk.

    Raises:
        IntegrityError: a pack is missing or its bytes do not pass their checksum.
    """
    arrays: dict[str, zarr.Array[Any]] = {}
    cache: OrderedDict[tuple[str, int], Frame] = OrderedDict()
    held_bytes = 0
    for kind, index in zip(rows["pack"].tolist(), rows["pack_index"].tolist(), strict=True):
        if kind not in arrays:
            arrays[kind] = _existing(root, kind)
        step = _block_frames(arrays[kind], rows)
        key = (kind, index // step)
        if key not in cache:
            cache[key] = _read(arrays[kind], key[1] * step, step)
            held_bytes += cache[key].nbytes
            while held_bytes > CACHE_BYTES and len(cache) > 1:
                held_bytes -= cache.popitem(last=False)[1].nbytes
        cache.move_to_end(key)
        block = cache[key]
        if index % step >= len(block):
            raise IntegrityError("the table names a frame that its pack does not hold: restore the collection")
        yield block[index % step]


def _block_frames(array: zarr.Array[Any], rows: pd.DataFrame) -> int:
    """Frames to read at once: a shard where most rows are wanted, a chunk where few are."""
    return _shard_frames(array) if len(rows) * 4 >= array.shape[0] else int(array.chunks[0])


def _read(array: zarr.Array[Any], start: int, count: int) -> Frame:
    try:
        return np.asarray(array[start : start + count])
    except (ValueError, RuntimeError, OSError):
        raise IntegrityError("pixels of the collection do not pass their checksum: restore it from a copy") from None


def _write(array: zarr.Array[Any], position: int, block: list[Frame]) -> int:
    end = position + len(block)
    array.resize((end, *array.shape[1:]))
    array[position:end] = np.stack(block)
    return end


def _pack(root: zarr.Group, kind: str) -> zarr.Array[Any] | None:
    found = root.get(f"{layout.PACKS}/{kind}/{layout.IMAGES}")
    return found if isinstance(found, zarr.Array) else None


def _existing(root: zarr.Group, kind: str) -> zarr.Array[Any]:
    array = _pack(root, kind)
    if array is None:
        raise IntegrityError("the table names a pack that the collection does not hold: restore the collection")
    return array


def _create(root: zarr.Group, kind: str, frame: Frame) -> zarr.Array[Any]:
    chunk_frames = max(1, CHUNK_BYTES // frame.nbytes)
    shard_frames = chunk_frames * max(1, SHARD_BYTES // (chunk_frames * frame.nbytes))
    return root.create_array(
        f"{layout.PACKS}/{kind}/{layout.IMAGES}",
        shape=(0, *frame.shape),
        dtype=frame.dtype.name,
        chunks=(chunk_frames, *frame.shape),
        shards=(shard_frames, *frame.shape),
        compressors=[
            BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=frame.dtype.itemsize),
            Crc32cCodec(),
        ],
        fill_value=0,
    )


def _shard_frames(array: zarr.Array[Any]) -> int:
    return int((array.shards or array.chunks)[0])


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Maximal runs of consecutive numbers as (first, last)."""
    first = last = None
    for index in indices:
        if first is None or last is None or index != last + 1:
            if first is not None and last is not None:
                yield first, last
            first = index
        last = index
    if first is not None and last is not None:
        yield first, last
