"""The arrays of a release: Zarr v3, chunk 16, shard 1024 or 64 MiB, byte-shuffled lz4, a checksum in every chunk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.cohort.planes import FLAT
from medgan.cohort.stored import IMAGES
from medgan.cohort.synthetic import CHUNK_IMAGES, usual_images
from medgan.release.evidence import Pixels, pixel_digest

CODEC: Final = "lz4hc"
"""Decodes in a half to a quarter of zstd's time and takes 4 to 14% more bytes (docs/adr/0025)."""

LEVEL = 5
"""Of lz4hc: 3 is 5% larger and misses 0.30 of raw, 9 is 1% smaller and up to five times slower to pack."""

BLOCK_BYTES = 1 << 19
"""Inner block of blosc: one a chunk at 128 px."""

_AXES = {FLAT: ("image", "row", "column"), FLAT + 1: ("volume", "slice", "row", "column")}


def write(path: Path, arrays: Mapping[str, tuple[Pixels, dict[str, Any]]]) -> dict[str, str]:
    """Write arrays, with their attributes, as group `path`; gives the SHA-256 of each shard's decoded rows.

    `images` are (N, H, W) or (N, D, H, W) uint16, `masks` uint8 of the same shape. Keys are paths below `path`. Byte
    shuffle beats bit shuffle here in size and speed; of 40 injected bit flips lz4 alone let 32 pass and crc32c none
    (design page of the release room, measured).
    """
    group = zarr.create_group(path, zarr_format=3, attributes={"synthetic": True})
    digests: dict[str, str] = {}
    for name, (pixels, attributes) in arrays.items():
        digests |= _written(group, name, pixels, attributes)
    with warnings.catch_warnings():
        # consolidated metadata is an agreed extension of Zarr v3 that every reader may ignore
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        zarr.consolidate_metadata(group.store)
    return digests


def _written(group: zarr.Group, name: str, images_NHW: Pixels, attributes: dict[str, Any]) -> dict[str, str]:
    rows, itemsize = usual_images(images_NHW.shape[1:]), images_NHW.dtype.itemsize
    array = group.create_array(
        name,
        shape=images_NHW.shape,
        dtype=images_NHW.dtype,
        chunks=(CHUNK_IMAGES, *images_NHW.shape[1:]),
        shards=(rows, *images_NHW.shape[1:]),
        compressors=[
            BloscCodec(cname=CODEC, clevel=LEVEL, shuffle="shuffle", typesize=itemsize, blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        ],
        fill_value=0,
        attributes=attributes,
        dimension_names=_AXES[images_NHW.ndim],
        config={"write_empty_chunks": True},
    )
    digests = {}
    for number, start in enumerate(range(0, len(images_NHW), rows)):
        block_NHW = images_NHW[start : start + rows]
        array[start : start + len(block_NHW)] = block_NHW
        digests[shard_name(number, images_NHW.ndim, name)] = pixel_digest(block_NHW)
    return digests


def shard_name(number: int, ndim: int, array: str = IMAGES) -> str:
    """Path of a shard below the group, of an array of `ndim` dimensions."""
    return "/".join((array, "c", str(number), *["0"] * (ndim - 1)))
