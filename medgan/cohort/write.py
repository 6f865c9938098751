"""Write a cohort whole: images in shards, table, record; the folder appears when all of it is durable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.cohort import layout
from medgan.cohort.split import SPLITS
from medgan.cohort.stored import IMAGES, MASKS, STRUCTURES
from medgan.cohort.synthetic import usual_images
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.errors import InvalidRequest
from medgan.records import CohortRecipe, CohortSnapshot
from medgan.settings import Zones

CHUNK_IMAGES = 16
SHARD_IMAGES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortContent:
    """What a cohort consists of. `blocks` yields uint16 blocks of at most `SHARD_IMAGES` images in row order.

    `masks` yields uint8 blocks of theirs, where the recipe has structures.
    """

    blocks: Iterable[npt.NDArray[np.uint16]]
    table: pd.DataFrame
    attributes: dict[str, Any]
    duplicates_dropped: int = 0
    masks: Iterable[npt.NDArray[np.uint8]] | None = None
    masks_left_out: int = 0


def write(
    handle: str, content: CohortContent, *, recipe: CohortRecipe, collection_snapshot: str, zones: Zones
) -> CohortSnapshot:
    """Write the cohort `handle` and return its record; `InvalidRequest` when it has no image."""
    table, size = content.table, recipe.size_px
    if table.empty:
        raise InvalidRequest("the recipe selects no image of this collection: check modalities and class attribute")
    with durable.new_folder(layout.folder(handle, zones=zones)) as staging:
        group = zarr.create_group(staging / layout.IMAGES, zarr_format=3)
        shape = (len(table), *[size] * (3 if recipe.volumes else 2))
        array = create_images(group, shape, content.attributes)
        pixel_sha256 = _filled(array, content.blocks)
        if content.masks is not None:
            told = {STRUCTURES: list(recipe.structures)}
            pixel_sha256 = with_masks(pixel_sha256, _filled(create_images(group, shape, told, MASKS), content.masks))
        (staging / layout.TABLE).write_bytes(tables.to_parquet(table))
        snapshot = CohortSnapshot(
            cohort=handle,
            recipe=recipe,
            collection_snapshot=collection_snapshot,
            classes=tuple(sorted(table["class"].unique())),
            images=len(table),
            patients={name: int(table.loc[table["split"] == name, "patient_key"].nunique()) for name in SPLITS},
            size_px=size,
            duplicates_dropped=content.duplicates_dropped,
            masked=int(table["masked"].sum()) if recipe.structures else 0,
            masks_left_out=content.masks_left_out,
            content_sha256=content_digest(pixel_sha256, table),
        )
        (staging / layout.RECORD).write_bytes(snapshot.canonical())
    return snapshot


def _filled(array: zarr.Array[Any], blocks: Iterable[npt.NDArray[Any]]) -> str:
    """Hex SHA-256 of what was written; `InvalidRequest` where it is not as many rows as the array has."""
    hasher = hashlib.sha256()
    done = 0
    for block_NHW in blocks:
        array[done : done + len(block_NHW)] = block_NHW
        hasher.update(np.ascontiguousarray(block_NHW, dtype=array.dtype.newbyteorder("<")).tobytes())
        done += len(block_NHW)
    if done != array.shape[0]:
        raise InvalidRequest(f"{done} images were prepared for {array.shape[0]} rows: prepare the cohort again")
    return hasher.hexdigest()


def with_masks(pixel_sha256: str, masks_sha256: str) -> str:
    """What stands for the pixels of a cohort that has masks, in `content_digest`."""
    return f"{pixel_sha256}+{masks_sha256}"


def content_digest(pixel_sha256: str, table: pd.DataFrame) -> str:
    """Hex SHA-256 that binds the decoded image bytes (little-endian, row order) to the table."""
    return hashlib.sha256(f"{pixel_sha256}:{tables.digest(table)}".encode()).hexdigest()


def create_images(
    group: zarr.Group, shape: tuple[int, ...], attributes: dict[str, Any], name: str = IMAGES
) -> zarr.Array[Any]:
    """Create the array `name` (N, S, S) or (N, S, S, S) uint16, of masks uint8: chunk of 16, shard of 1024, crc32c."""
    dtype = np.dtype(np.uint8 if name == MASKS else np.uint16)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype.name,
        chunks=(CHUNK_IMAGES, *shape[1:]),
        shards=(usual_images(shape[1:]), *shape[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=dtype.itemsize), Crc32cCodec()],
        fill_value=0,
        attributes=attributes,
    )
