"""Series to volumes: one row and one cube a series, its slices in order along their normal.

A series is a volume where its frames have one size, distinct and known positions, and no gap: what has none of these
(localisers, echoes, a lost slice) is left out, because nothing between its frames is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort import resample
from medgan.records import CohortRecipe, sha256_hex

LEAST_SLICES = 8
"""Fewer are a localiser, not a volume."""
_WIDEST_STEP = 1.5
"""Of the median step: more says that a slice is missing (as the rule `no-missing-slice` has it)."""
SLICE_MM = "slice_mm"


def only_volumes(frames: pd.DataFrame) -> pd.DataFrame:
    """The frames of series that are volumes, with the distance of their slices as `slice_mm`; index 0..n-1."""
    kept = [
        series.assign(**{SLICE_MM: step})
        for _, series in frames.groupby("series_key", sort=False)
        if (step := _step_mm(series)) is not None
    ]
    return pd.concat(kept, ignore_index=True) if kept else frames.iloc[:0].assign(**{SLICE_MM: 0.0})


def _step_mm(series: pd.DataFrame) -> float | None:
    """Millimetres between neighbouring slices of a series in canonical order; None where it is no volume."""
    steps = np.diff(series["slice_position_mm"].to_numpy(dtype=np.float64))
    uniform = len(series) >= LEAST_SLICES and np.isfinite(steps).all() and steps.min() > 0
    if not uniform or steps.max() > _WIDEST_STEP * np.median(steps):
        return None
    in_plane = series[["pack", "spacing_row_mm", "spacing_column_mm"]].drop_duplicates()
    spacing = in_plane[["spacing_row_mm", "spacing_column_mm"]].to_numpy(dtype=np.float64)
    return float(np.median(steps)) if len(in_plane) == 1 and (spacing > 0).all() else None


def one_row_each(frames: pd.DataFrame) -> pd.DataFrame:
    """(n, ...) frames to one row a series: its first slice's, with the digest of all its pixels; index 0..m-1."""
    by_series = frames.groupby("series_key", sort=False)
    first = by_series.head(1).set_index("series_key", drop=False)
    digests = by_series["pixel_sha256"].agg(lambda parts: sha256_hex("".join(parts).encode()))
    return first.assign(pixel_sha256=digests).reset_index(drop=True)


def gathered(
    in_pack_order: pd.DataFrame, frames: Iterator[npt.NDArray[Any]]
) -> Iterator[tuple[pd.DataFrame, list[npt.NDArray[Any]]]]:
    """(rows, frames) of one series after the other, as they are complete, slices in canonical order.

    `in_pack_order` has the canonical place of every row as its index.
    """
    left = in_pack_order["series_key"].value_counts().to_dict()
    held: dict[str, list[tuple[int, npt.NDArray[Any]]]] = {}
    for place, series, frame in zip(in_pack_order.index, in_pack_order["series_key"], frames, strict=True):
        held.setdefault(series, []).append((place, frame))
        left[series] -= 1
        if not left[series]:
            slices = sorted(held.pop(series), key=lambda one: one[0])
            yield in_pack_order.loc[[at for at, _ in slices]], [image for _, image in slices]


def converted(
    rows: pd.DataFrame, slices_DHW: list[npt.NDArray[np.float64]], recipe: CohortRecipe
) -> tuple[npt.NDArray[np.uint16], tuple[float, float], float]:
    """A series' slices in physical units to (S, S, S) uint16, its window, and the side of a voxel in mm."""
    first = rows.iloc[0]
    spacing_mm = (float(first[SLICE_MM]), float(first["spacing_row_mm"]), float(first["spacing_column_mm"]))
    values_DHW = np.stack(slices_DHW)
    if first["photometric"] == "MONOCHROME1":  # mirrored as a whole: one slice's range differs from the next's
        values_DHW = values_DHW.max() + values_DHW.min() - values_DHW
    window = recipe.intensity_window or resample.window_of(values_DHW, recipe.intensity_percentiles)
    cube_SSS, voxel_mm = resample.to_cube(values_DHW, recipe.size_px, spacing_mm=spacing_mm)
    return resample.to_stored(cube_SSS, window), window, voxel_mm
