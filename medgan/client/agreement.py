"""What the parts of a version say must agree and make sense: a signature proves origin, not sense.

Checked when a part is first read, before anything of the size it claims is allocated. `IntegrityError` for all.
"""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgan.errors import IntegrityError
from medgan.records import Manifest

if TYPE_CHECKING:
    import pandas as pd

    from medgan.client.shards import Layout

_MOST_SHRUNK = 1000
"""Decoded bytes a stored one: the images of a release take a half to a tenth, a bomb a ten-thousandth."""
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")
_AXES = (0, 2, 3)


def table(path: Path, manifest: Manifest) -> pd.DataFrame:
    """The labels in the Parquet file `path`: a row an image, of flat columns; each with a split and a known class."""
    labels = _read(path, rows=manifest.images)
    if labels is None or not {"split", "class"} <= set(labels.columns):
        raise _disagrees("its table of labels", manifest)
    splits, classes = labels["split"].unique(), set(labels["class"].unique())
    named = all(isinstance(split, str) and _SPLIT.fullmatch(split) for split in splits)  # files are named after them
    numbered = "patient" not in labels or labels["patient"].dtype.kind in "iu"
    if not (named and numbered and classes <= set(manifest.class_counts)):
        raise _disagrees("its table of labels", manifest)
    return labels


def _read(path: Path, *, rows: int) -> pd.DataFrame | None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            flat = not any(pa.types.is_nested(field.type) for field in file.schema_arrow)
            fits = file.metadata.num_rows == rows
        return pd.read_parquet(path) if flat and fits else None
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError):  # any bytes may stand there
        return None


def layout(said: Layout, manifest: Manifest) -> Layout:
    """`said` where it holds as many images as the manifest, of a size that its files can hold."""
    stored = sum(file.size for file in manifest.files if file.pixel_sha256)
    if said.shape[0] != manifest.images or said.chunks * said.chunk_bytes > _MOST_SHRUNK * stored:
        raise _disagrees("its array", manifest)
    return said


def array(path: Path, manifest: Manifest) -> Any:
    """The zarr-python array `images` of the group in the folder `path`, of any layout, with an image for each row."""
    import zarr

    try:
        found = zarr.open_group(path, mode="r", zarr_format=3)["images"]
        fits = found.shape[0] == manifest.images  # type: ignore[union-attr]
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError):  # any JSON, as above
        fits = False
    if not fits:
        raise _disagrees("its array", manifest)
    return found


def attributes(said: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """`said` of an array where its intensities and distances are numbers that can be computed with."""
    window, spacing = said.get("intensity_range", (0, 1)), said.get("spacing_mm") or ()
    affine = said.get("rescale_slope", 1), said.get("rescale_intercept", 0)
    try:
        sound = len(window) == 2 and window[0] < window[1] and len(spacing) in _AXES  # noqa: PLR2004 - low and high
        sound &= all(type(number) in (int, float) and isfinite(number) for number in (*window, *spacing, *affine))
        sound &= all(distance > 0 for distance in spacing)
    except (TypeError, KeyError, OverflowError):
        sound = False
    if not sound:
        raise _disagrees("what it says of its intensities", manifest)
    return said


def _disagrees(what: str, manifest: Manifest) -> IntegrityError:
    return IntegrityError(
        f"{manifest.name}@{manifest.version}: {what} cannot be read, or does not fit its manifest: "
        "take another version, and tell the publisher"
    )
