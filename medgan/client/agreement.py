"""What the parts of a version say must agree and make sense: a signature proves origin, not sense.

Checked when a part is first read, before anything of the size it claims is allocated. `IntegrityError` for all.
"""

from __future__ import annotations

import re
from contextlib import suppress
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgan import parquet
from medgan.client import disk
from medgan.errors import IntegrityError
from medgan.records import Manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from medgan.client.shards import Layout

GROUP = "images.zarr"
"""The group of a version's arrays: `images`, and `masks` where structures are outlined."""
IMAGES, MASKS = "images", "masks"

_MOST_SHRUNK = 1000
"""Decoded bytes a stored one: the images of a release take a half to a tenth, a bomb a ten-thousandth."""
_MOST_OF_A_ROW = 2**16
"""Bytes that a row of labels may have on average."""
_LARGEST = 1e15
"""No distance or intensity is larger; the product of two still is a float32, which NIfTI and DICOM need."""
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
_AXES = (0, 2, 3)
_MASK = "uint8"
_MOST_STRUCTURES = 255
_MOST_OF_A_NAME = 200


def description(name: str) -> str:
    """Path of the description of array `name` within a version."""
    return f"{GROUP}/{name}/zarr.json"


def has_masks(manifest: Manifest) -> bool:
    """Whether the version has a mask beside each image."""
    return any(file.path == description(MASKS) for file in manifest.files)


def table(path: Path, manifest: Manifest) -> pd.DataFrame:
    """The labels in the Parquet file `path`: a row an image, of flat columns; each with a split and a known class.

    `StoreUnavailable` where the disk does not give the file: that is nothing to tell a publisher.
    """
    most = min(_MOST_OF_A_ROW * manifest.images, _MOST_SHRUNK * _stored(manifest))
    data = b""
    with disk.explained(), suppress(FileNotFoundError):
        data = path.read_bytes()
    labels = _read(data, rows=manifest.images, most=most)
    if labels is None or not {"split", "class"} <= set(labels.columns):
        raise disagrees("its table of labels", manifest)
    splits, classes = labels["split"].unique(), set(labels["class"].unique())
    named = all(isinstance(split, str) and _SPLIT.fullmatch(split) for split in splits)  # files are named after them
    numbered = "patient" not in labels or labels["patient"].dtype.kind in "iu"
    if not (named and numbered and classes <= set(manifest.class_counts)):
        raise disagrees("its table of labels", manifest)
    return labels


def _read(data: bytes, *, rows: int, most: int) -> pd.DataFrame | None:
    """The table in the Parquet file `data`, or None where it is none of `rows` rows, flat, of `most` bytes."""
    import pyarrow as pa

    found = parquet.read(data, most_rows=rows, most_bytes=most)
    if found is None or found[1] or found[0].num_rows != rows:
        return None
    try:
        read: pd.DataFrame = found[0].to_pandas(ignore_metadata=True)
    except (pa.ArrowException, ValueError, TypeError, KeyError):  # any bytes may stand there
        return None
    return read


def layout(said: Layout, manifest: Manifest) -> Layout:
    """`said` where it holds as many images as the manifest, of a size that its files can hold."""
    if said.shape[0] != manifest.images or said.chunks * said.chunk_bytes > _MOST_SHRUNK * _stored(manifest):
        raise disagrees("its array", manifest)
    return said


def masks(said: Layout, images: Layout, manifest: Manifest) -> Layout:
    """`said` where it holds a mask beside each image of `images`, in as many rows a chunk and a shard."""
    shapes = [(one.shape, one.chunk_rows, one.shard_rows) for one in (said, images)]
    if said.dtype.name != _MASK or shapes[0] != shapes[1]:
        raise disagrees("its masks", manifest)
    return layout(said, manifest)


def structures(said: Any, manifest: Manifest) -> tuple[str, ...]:
    """The names in the attributes `said` of masks: value k is the k-th of them; 0 is background.

    They go into terminals, file headers and tables, where a line that ends or half a character does harm.
    """
    names = said.get("structures") if isinstance(said, dict) else None
    if isinstance(names, list) and 1 <= len(names) <= _MOST_STRUCTURES:
        texts = tuple(
            name for name in names if isinstance(name, str) and name.isprintable() and 1 <= len(name) <= _MOST_OF_A_NAME
        )
        if len({*texts}) == len(names):
            return texts
    raise disagrees("what it says of its structures", manifest)


def mask_values(pixels: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.uint8]:
    """Masks, of which none may name a structure above the number `most`."""
    if pixels.max(initial=0) > most:
        raise IntegrityError("a mask has a value without a structure: take another version, and tell the publisher")
    return pixels


def array(path: Path, manifest: Manifest, name: str = IMAGES) -> Any:
    """The zarr-python array `name` of the group in the folder `path`, of any layout, with an image for each row.

    Its own description counts, which direct readers go by too, not the copy of it in the group's.
    `StoreUnavailable` where the disk does not give its description.
    """
    import zarr

    fits, found = False, None
    try:
        with disk.explained(), suppress(FileNotFoundError):
            found = zarr.open_array(path / name, mode="r", zarr_format=3)
        shape, chunk = found.shape, found.chunks  # type: ignore[union-attr]
        chunks = prod(-(-side // of_chunk) for side, of_chunk in zip(shape, chunk, strict=True))
        size = chunks * prod(chunk) * found.dtype.itemsize  # type: ignore[union-attr]  # a chunk is decoded whole
        fits = shape[0] == manifest.images and size <= _MOST_SHRUNK * _stored(manifest)
        fits &= name == IMAGES or found.dtype.name == _MASK  # type: ignore[union-attr]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError):  # any JSON
        pass
    if not fits:
        raise disagrees("its array", manifest)
    return found


def _stored(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files)


def attributes(said: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """`said` of an array where its intensities and distances are numbers that can be computed with."""
    window, spacing = said.get("intensity_range", (0, 1)), said.get("spacing_mm") or ()
    affine = said.get("rescale_slope", 1), said.get("rescale_intercept", 0)
    try:
        sound = len(window) == 2 and window[0] < window[1] and len(spacing) in _AXES  # noqa: PLR2004 - low and high
        numbers = (*window, *spacing, *affine)
        sound &= all(type(one) in (int, float) and isfinite(one) and abs(one) < _LARGEST for one in numbers)
        sound &= all(distance > 1 / _LARGEST for distance in spacing)
    except (TypeError, KeyError, OverflowError):
        sound = False
    if not sound:
        raise disagrees("what it says of its intensities", manifest)
    return said


def disagrees(what: str, manifest: Manifest) -> IntegrityError:
    """The refusal of a part of a version, `what`."""
    return IntegrityError(
        f"{manifest.name}@{manifest.version}: {what} cannot be read, or does not fit its manifest: "
        "take another version, and tell the publisher"
    )
