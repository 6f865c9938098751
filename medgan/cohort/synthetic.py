"""Where a synthetic cohort lies, and how it is read: refused when its bytes are not what its record says."""

from __future__ import annotations

import hashlib
import re
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from medgan.cohort import stored as stored_bytes
from medgan.collection import table as tables
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import SyntheticCohort
from medgan.settings import Zones

IMAGES = "images.zarr"
LABELS = "labels.parquet"
RECORD = "synthetic.json"
CHUNK_IMAGES = 16
SHARD_IMAGES = 1024
_VOLUMES_BYTES = 1 << 26


class Synthetic(NamedTuple):
    """A synthetic cohort in memory.

    `images` is (N, H, W), of volumes (N, D, H, W), uint16; row i of `labels` describes image i (`id`, `split`, `class`,
    and `sex`, `age_band` where synthesised); `attrs` holds `intensity_range`, `rescale_slope`, `rescale_intercept`,
    `units`, `spacing_mm`. `masks` is (N, H, W) uint8, value k the record's k-th structure, where it has any.
    """

    images: npt.NDArray[np.uint16]
    labels: pd.DataFrame
    attrs: dict[str, Any]
    masks: npt.NDArray[np.uint8] | None = None


def folder(synthetic: str, *, zones: Zones) -> Path:
    """Folder of the synthetic cohort with this handle; no path is built from anything else."""
    if not re.fullmatch(r"sy-[0-9a-f]{16,64}", synthetic):
        raise InvalidRequest("a synthetic cohort's handle is sy- and 16 to 64 hex digits")
    return zones.synthetic / "cohorts" / synthetic


def record(synthetic: str, *, zones: Zones) -> SyntheticCohort | None:
    """The record of a finished synthetic cohort, or None."""
    return stored_bytes.record(folder(synthetic, zones=zones) / RECORD, SyntheticCohort)


def load(synthetic: SyntheticCohort | str, *, zones: Zones, spool: bool = False) -> Synthetic:
    """Load a synthetic cohort by record or handle; with `spool`, more than a GiB of images goes to a file beside it.

    Raises:
        InvalidRequest: there is no such synthetic cohort.
        IntegrityError: record, images, masks or labels are not what the stored record says.
    """
    handle = synthetic if isinstance(synthetic, str) else synthetic.synthetic
    stored = record(handle, zones=zones)
    if stored is None:
        raise InvalidRequest(f"there is no synthetic cohort {handle}: generate it first")
    if isinstance(synthetic, SyntheticCohort) and synthetic != stored:
        raise IntegrityError(f"the record given for synthetic cohort {handle} is not the one in the store")
    home = folder(handle, zones=zones)
    labels = (home / LABELS).read_bytes()
    size: dict[str, Any] = {"count": stored.images, "side_px": stored.size_px, "beside": home if spool else None}
    images, attrs = stored_bytes.images(home / IMAGES, **size)
    masks = stored_bytes.masks(home / IMAGES, structures=stored.structures, **size)
    whole = pixel_digest(images) == stored.pixel_sha256 and hashlib.sha256(labels).hexdigest() == stored.labels_sha256
    if not whole or (None if masks is None else pixel_digest(masks)) != stored.masks_sha256:
        raise IntegrityError(
            f"synthetic cohort {handle} is not what its digests say: it was changed, or made by another version of "
            "medgan; generate it again"
        )
    return Synthetic(images, tables.from_parquet(labels), attrs, masks)


def open_images(path: Path, *, mode: Any = "r") -> zarr.Array[Any]:
    """The array `images` (N, H, W) uint16 of the Zarr v3 group at `path`."""
    return zarr.open_array(path / stored_bytes.IMAGES, mode=mode, zarr_format=3)


def open_masks(path: Path, *, mode: Any = "r") -> zarr.Array[Any]:
    """The array `masks` (N, H, W) uint8 of the Zarr v3 group at `path`; `FileNotFoundError` where it has none."""
    return zarr.open_array(path / stored_bytes.MASKS, mode=mode, zarr_format=3)


def usual_images(shape: tuple[int, ...]) -> int:
    """Images of `shape` a shard where nobody says: 1,024, of volumes as many as 64 MiB hold, in whole chunks."""
    if len(shape) == 2:  # noqa: PLR2004 - (H, W)
        return SHARD_IMAGES
    held = _VOLUMES_BYTES // (2 * prod(shape))
    return min(max(held // CHUNK_IMAGES, 1) * CHUNK_IMAGES, SHARD_IMAGES)


def digests_of(images: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]) -> bytes:
    """The SHA-256 (32 bytes each) of every 16 images or masks (n, H, W): C order, little-endian, no padding.

    Parts that begin at a multiple of 16 rows can be digested apart, by whoever made them, and joined.
    """
    stored = np.ascontiguousarray(images, dtype=images.dtype.newbyteorder("<"))
    parts = (stored[start : start + CHUNK_IMAGES] for start in range(0, len(stored), CHUNK_IMAGES))
    return b"".join(hashlib.sha256(part.data).digest() for part in parts)


def pixel_digest(images: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]) -> str:
    """Hex SHA-256 over `digests_of` all rows in order: a record's `pixel_sha256` of images, `masks_sha256` of masks."""
    return hashlib.sha256(digests_of(images)).hexdigest()
