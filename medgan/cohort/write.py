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
    """What a cohort consists of. `blocks` yields uint16 blocks of at most `SHARD_IMAGES` images in row order."""

    blocks: Iterable[npt.NDArray[np.uint16]]
    table: pd.DataFrame
    attributes: dict[str, Any]
    duplicates_dropped: int = 0


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
        hasher = hashlib.sha256()
        done = 0
        for block_NHW in content.blocks:
            array[done : done + len(block_NHW)] = block_NHW
            hasher.update(np.ascontiguousarray(block_NHW, dtype="<u2").tobytes())
            done += len(block_NHW)
        if done != len(table):
            raise InvalidRequest(f"{done} images were prepared for {len(table)} rows: prepare the cohort again")
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
            content_sha256=content_digest(hasher.hexdigest(), table),
        )
        (staging / layout.RECORD).write_bytes(snapshot.canonical())
    return snapshot


def content_digest(pixel_sha256: str, table: pd.DataFrame) -> str:
    """Hex SHA-256 that binds the decoded image bytes (little-endian, row order) to the table."""
    return hashlib.sha256(f"{pixel_sha256}:{tables.digest(table)}".encode()).hexdigest()


def create_images(group: zarr.Group, shape: tuple[int, ...], attributes: dict[str, Any]) -> zarr.Array[Any]:
    """Create the array `images` (N, S, S) or (N, S, S, S) uint16: chunk of 16, shard of 1024, inner crc32c."""
    return group.create_array(
        "images",
        shape=shape,
        dtype="uint16",
        chunks=(CHUNK_IMAGES, *shape[1:]),
        shards=(usual_images(shape[1:]), *shape[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2), Crc32cCodec()],
        fill_value=0,
        attributes=attributes,
    )
