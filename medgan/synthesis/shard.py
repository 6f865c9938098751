"""One shard of a synthetic cohort's images, or of their masks, packed in one piece: chunks, checksums, index.

Zarr-python packs the same bytes chunk by chunk through its event loop, which took more time than the compression
(docs/adr/0074). Layout: Zarr v3 `sharding_indexed` (zarr-specs, codecs/sharding-indexed v1.0), index at the end.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.cohort.stored import IMAGES, MASKS

LEVEL = 5
"""Of blosc's lz4: half of the time of level 9 and within 1 % of its size."""
_ABSENT = np.uint64(2**64 - 1)

Images = npt.NDArray[np.uint16] | npt.NDArray[np.uint8]


def create_array(
    group: zarr.Group,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    *,
    chunk_rows: int,
    shard_rows: int,
    name: str = IMAGES,
) -> zarr.Array[Any]:
    """The empty array `name` of `group`, whose shards `pack` makes: (N, [D,] H, W) uint16, of masks uint8."""
    dtype = np.dtype(np.uint8 if name == MASKS else np.uint16)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype.name,
        chunks=(chunk_rows, *shape[1:]),
        shards=(shard_rows, *shape[1:]),
        compressors=[BloscCodec(cname="lz4", clevel=LEVEL, shuffle="shuffle", typesize=dtype.itemsize), Crc32cCodec()],
        fill_value=0,
        attributes=attributes,
        overwrite=True,  # a killed run may have begun it
    )


def pack(images: Images, *, chunk_rows: int, shard_rows: int) -> bytes:
    """The shard that holds `images` (n, ...) in its first rows, n at most `shard_rows`; the rest is absent."""
    index = np.full((shard_rows // chunk_rows, 2), _ABSENT, dtype="<u8")
    parts, at = [], 0
    for number, start in enumerate(range(0, len(images), chunk_rows)):
        part = _checked(blosc.compress(_whole(images[start : start + chunk_rows], chunk_rows), b"lz4", LEVEL))
        index[number] = at, len(part)
        parts.append(part)
        at += len(part)
    return b"".join([*parts, _checked(index.tobytes())])


def _whole(rows: Images, chunk_rows: int) -> npt.NDArray[Any]:
    """Rows in one piece, filled up with zeros to a whole chunk."""
    stored = rows.dtype.newbyteorder("<")
    if len(rows) == chunk_rows:
        return np.ascontiguousarray(rows, dtype=stored)
    padded = np.zeros((chunk_rows, *rows.shape[1:]), dtype=stored)
    padded[: len(rows)] = rows
    return padded


def _checked(body: bytes) -> bytes:
    """`body` and its crc32c, little-endian."""
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")
