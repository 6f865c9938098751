"""The columns of the table: one row a frame, every column typed, nothing that a header did not have to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

_KEYS = ("instance_key", "series_key", "study_key", "patient_key")
_PLACE = ("pack",)
_DIGESTS = ("pixel_sha256", "source_sha256")
_CODES = ("modality", "body_part", "view_position", "laterality", "manufacturer", "photometric", "units")
_TEXT = (*_KEYS, *_PLACE, *_DIGESTS, *_CODES, "orientation", "study_date", "sex")
_INTEGERS = ("frame", "pack_index", "instance_number", "bits_stored")
_REALS = (
    "rescale_slope",
    "rescale_intercept",
    "spacing_row_mm",
    "spacing_column_mm",
    "thickness_mm",
    "position_x",
    "position_y",
    "position_z",
    "slice_position_mm",
    "age_years",
    "pixel_min",
    "pixel_max",
    "pixel_mean",
    "pixel_std",
)

DTYPES: dict[str, str] = (
    dict.fromkeys(_TEXT, "str") | dict.fromkeys(_INTEGERS, "int64") | dict.fromkeys(_REALS, "float64")
)
"""Name -> pandas dtype. Text that is not known is empty, a real that is not known is NaN."""

OUTLINES: dict[str, str] = {"outlines": "str", "outlines_frame": "int64", "structure": "str", "inside_from": "int64"}
"""Columns that a table has where it has frames of segmentations: which frame of which instance one was drawn on, what
it outlines, and from which stored value on a pixel is inside. Where a series stands for the instance, the mask's place
says which of its images it is, and `outlines_frame` is the mask's own; it is -1 where none of an instance is named."""
LABEL_PREFIX = "label_"
ORDER = ("study_key", "series_key", "slice_position_mm", "instance_number", "instance_key", "frame")
"""Canonical order of rows: a volume is one run, sorted along its normal (mm), then as the scanner numbered it."""


def frame_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame with every column of `DTYPES`; label columns stay text."""
    return conform(pd.DataFrame(list(rows)))


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with every column of `DTYPES` in its type, missing ones empty, label columns after them as text."""
    columns: dict[str, Any] = {}
    present = OUTLINES if "outlines" in frame.columns else {}
    for name, dtype in (DTYPES | present).items():
        columns[name] = _typed(frame.get(name), dtype, len(frame))
    for name in sorted(column for column in frame.columns if column.startswith(LABEL_PREFIX)):
        columns[name] = _typed(frame[name], "str", len(frame))
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in canonical order, index 0..n-1."""
    return frame.sort_values(list(ORDER), kind="stable", na_position="last", ignore_index=True)


def label_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the joined label columns."""
    return sorted(column for column in frame.columns if column.startswith(LABEL_PREFIX))


def _typed(values: pd.Series | None, dtype: str, count: int) -> pd.Series:
    if dtype == "str":
        if values is None:
            return pd.Series([""] * count, dtype="str")
        return values.reset_index(drop=True).astype("str").fillna("")
    if dtype == "int64":
        return pd.Series(np.zeros(count, np.int64) if values is None else values.fillna(0).to_numpy(), dtype="int64")
    return pd.Series(np.full(count, np.nan) if values is None else values.to_numpy(), dtype="float64")
