"""Collection to cohort: select rows, resample and window frames or whole volumes, split by patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort import layout, masks, read, resample, stored, volumes
from medgan.cohort.split import SPLITS, split_of
from medgan.cohort.write import SHARD_IMAGES, CohortContent, write
from medgan.collection import durable
from medgan.collection import read as collection
from medgan.errors import InvalidRequest
from medgan.records import CohortRecipe, CohortSnapshot, CollectionSnapshot
from medgan.settings import Zones

MAX_RESCALE = 1e6
"""Largest rescale slope or intercept that is taken for one."""
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_Stored = TypeVar("_Stored", np.uint16, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converted:
    """Images (N, S, S), or volumes, uint16; the window (N, 2) in physical units and the spacing (N,) in mm of each."""

    images: npt.NDArray[np.uint16]
    windows: npt.NDArray[np.float64]
    spacing_mm: npt.NDArray[np.float64]


def prepare(snapshot: CollectionSnapshot, recipe: CohortRecipe, *, zones: Zones) -> CohortSnapshot:
    """Prepare the cohort that `recipe` asks for; a cohort that stands already is returned as it is.

    Its lock is held meanwhile: what lies there unfinished, of patients who may withdraw, is then nobody's but ours.

    Raises:
        InvalidRequest: the recipe names a column that is not there, or selects no image; or the snapshot is of before
            an erasure, within its grace.
        IntegrityError: pixels or table of the collection are damaged.
    """
    handle = layout.handle(snapshot.table_sha256, recipe)
    finished = read.record(handle, zones=zones)
    if finished is not None:
        return finished
    home = layout.folder(handle, zones=zones)
    with durable.locked(home.parent / ".locks" / handle):
        durable.sweep(home.parent, handle)
        return read.record(handle, zones=zones) or _prepare(handle, snapshot, recipe, zones=zones)


def _prepare(handle: str, snapshot: CollectionSnapshot, recipe: CohortRecipe, *, zones: Zones) -> CohortSnapshot:
    """Select, convert and write the cohort `handle`."""
    table = collection.table(snapshot, zones=zones)
    collection.refuse_withdrawn(snapshot, table, zones=zones)
    frames = select(table, recipe)
    found = volumes.one_row_each(frames) if recipe.volumes else frames
    selected = without_duplicates(found)
    outlined, elsewhere = masks.outlines(table, selected, recipe)
    if recipe.structures:
        masks.refuse_lacking(outlined, elsewhere, table, recipe)
        selected = selected.assign(**{masks.MASKED: masks.masked(outlined, selected)})
    # Images are written here and there, while packs are read in their own order, to files without a name.
    beside = layout.folder(handle, zones=zones).parent
    with durable.explained_disk():
        if recipe.volumes:
            converted = _convert_volumes(snapshot, selected, frames, recipe, beside=beside, zones=zones)
        else:
            converted = _convert(snapshot, selected, recipe, beside=beside, zones=zones)
        content = CohortContent(
            blocks=_blocks(converted.images),
            table=_table(selected, converted, recipe),
            attributes=_attributes(selected, converted, recipe),
            duplicates_dropped=len(found) - len(selected),
        )
        if recipe.structures:
            drawn_NSS = masks.drawn(snapshot, outlined, selected, recipe.size_px, beside=beside, zones=zones)
            content = replace(content, masks=_blocks(drawn_NSS), masks_left_out=elsewhere)
        # Icechunk's snapshot ids are random; the table's digest names the same content the same way every time.
        token = f"{snapshot.collection}@{snapshot.table_sha256}"
        return write(handle, content, recipe=recipe, collection_snapshot=token, zones=zones)


def select(table: pd.DataFrame, recipe: CohortRecipe) -> pd.DataFrame:
    """Rows of the collection's table that the recipe wants, with their `class`; canonical order, index 0..n-1."""
    label = _column(table, recipe.class_attribute)
    wanted = table["modality"].isin(recipe.modalities) & table["photometric"].isin(_MONOCHROME)
    selected = table.assign(**{"class": table[label]})[wanted & (table[label] != "")]
    selected["split"] = [split_of(patient, recipe) for patient in selected["patient_key"]]
    if selected.empty:
        raise InvalidRequest(
            f"the recipe selects no image: {int(wanted.sum())} of {len(table)} frames have its modality, none a class"
        )
    if not recipe.volumes:
        return some_slices(selected, recipe).reset_index(drop=True)
    whole = volumes.only_volumes(selected)
    if whole.empty:
        raise InvalidRequest("none of the selected series is a volume: gapless, of known spacing, 8 slices or more")
    return whole


def some_slices(rows: pd.DataFrame, recipe: CohortRecipe) -> pd.DataFrame:
    """Of every series the frames that the recipe asks for: evenly spaced in its middle part, in canonical order.

    The ends of a volume show air, neck or table; a series with fewer frames than wanted gives what its middle has.
    """
    if recipe.slices_per_series is None:
        return rows
    place = rows.groupby("series_key").cumcount()
    count = rows.groupby("series_key")["frame"].transform("size")
    kept = np.zeros(len(rows), dtype=bool)
    for total in count.unique():
        margin = (total - 1) * (1 - recipe.central_fraction) / 2
        wanted = np.linspace(margin, total - 1 - margin, recipe.slices_per_series + 2)[1:-1]
        kept |= ((count == total) & place.isin(np.unique(wanted.round().astype(int)))).to_numpy()
    return rows[kept]


def without_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for every distinct pixel content; index 0..n-1.

    The same image under two patients would leak from train to holdout. The copy in train stays before one in
    holdout-1, that before one in holdout-2: what was trained on once never becomes a holdout when the archive grows.
    """
    ranked = rows.assign(rank=rows["split"].map(SPLITS.index)).sort_values(["rank", "instance_key", "frame"])
    return rows.loc[~ranked.duplicated("pixel_sha256").reindex(rows.index)].reset_index(drop=True)


def _column(table: pd.DataFrame, attribute: str) -> str:
    """The joined label of this name where there is one, else the kept attribute."""
    for name in (f"label_{attribute}", attribute):
        if name in table.columns:
            return name
    raise InvalidRequest("the collection has no column for the recipe's class attribute: join labels that have it")


def _convert(
    snapshot: CollectionSnapshot, rows: pd.DataFrame, recipe: CohortRecipe, *, beside: Path, zones: Zones
) -> _Converted:
    """Convert every row's frame, reading packs in their own order."""
    size = recipe.size_px
    images_NSS = stored.mapped(beside, np.dtype(np.uint16), (len(rows), size, size))
    windows_N2 = np.zeros((len(rows), 2))
    spacing_mm_N = np.full(len(rows), np.nan)
    in_pack_order = rows.sort_values(["pack", "pack_index"], kind="stable")
    frames = collection.frames(snapshot, in_pack_order, zones=zones)
    indices, records = in_pack_order.index.to_list(), in_pack_order.itertuples(index=False)
    for i, row, frame in zip(indices, records, frames, strict=True):
        images_NSS[i], windows_N2[i], spacing_mm_N[i] = _convert_one(row, frame, recipe)
    return _Converted(images=images_NSS, windows=windows_N2, spacing_mm=spacing_mm_N)


def _convert_volumes(
    snapshot: CollectionSnapshot,
    selected: pd.DataFrame,
    frames: pd.DataFrame,
    recipe: CohortRecipe,
    *,
    beside: Path,
    zones: Zones,
) -> _Converted:
    """Convert every selected series, one in memory at a time where its slices lie together."""
    shape = (len(selected), *[recipe.size_px] * 3)
    images_NSSS = stored.mapped(beside, np.dtype(np.uint16), shape)
    windows_N2, voxel_mm_N = np.zeros((len(selected), 2)), np.full(len(selected), np.nan)
    place = {series: row for row, series in enumerate(selected["series_key"])}
    in_pack_order = frames[frames["series_key"].isin(place)].sort_values(["pack", "pack_index"], kind="stable")
    pixels = collection.frames(snapshot, in_pack_order, zones=zones)
    for rows, slices in volumes.gathered(in_pack_order, pixels):
        i = place[rows.iloc[0]["series_key"]]
        values = [_modality(row, frame) for row, frame in zip(rows.itertuples(index=False), slices, strict=True)]
        images_NSSS[i], windows_N2[i], voxel_mm_N[i] = volumes.converted(rows, values, recipe)
    return _Converted(images=images_NSSS, windows=windows_N2, spacing_mm=voxel_mm_N)


def _modality(row: Any, frame: npt.NDArray[Any], *, inverted: bool = False) -> npt.NDArray[np.float64]:
    """A frame (rows, columns) as stored to modality values."""
    slope, intercept = _sane_rescale(row.rescale_slope, row.rescale_intercept)
    return resample.to_physical(frame, slope=slope, intercept=intercept, inverted=inverted)


def _convert_one(
    row: Any, frame: npt.NDArray[Any], recipe: CohortRecipe
) -> tuple[npt.NDArray[np.uint16], tuple[float, float], float]:
    """One frame (rows, columns) to (S, S) uint16, its window and its new spacing in mm (NaN where unknown)."""
    values_HW = _modality(row, frame, inverted=row.photometric == "MONOCHROME1")
    spacing_mm = (row.spacing_row_mm, row.spacing_column_mm)
    known = all(np.isfinite(value) and value > 0 for value in spacing_mm)
    square_SS = resample.to_square(values_HW, recipe.size_px, spacing_mm=resample.known_mm(*spacing_mm))
    window = recipe.intensity_window or resample.window_of(values_HW, recipe.intensity_percentiles)
    longest_mm = max(values_HW.shape[0] * spacing_mm[0], values_HW.shape[1] * spacing_mm[1])
    return resample.to_stored(square_SS, window), window, longest_mm / recipe.size_px if known else np.nan


def _sane_rescale(slope: float, intercept: float) -> tuple[float, float]:
    """The rescale, or (1, 0) for one that no scanner means: validation stops on such a row by its own rule."""
    sane = 0 < abs(slope) <= MAX_RESCALE and abs(intercept) <= MAX_RESCALE  # false for NaN
    return (slope, intercept) if sane else (1.0, 0.0)


def _table(rows: pd.DataFrame, converted: _Converted, recipe: CohortRecipe) -> pd.DataFrame:
    """The cohort's table: row i is image i."""
    keys = ("patient_key", "study_key", "series_key", "instance_key", "frame", "pixel_sha256", "class")
    columns: dict[str, Any] = {"id": np.arange(len(rows), dtype=np.int64)} | {key: rows[key] for key in keys}
    for covariate in recipe.covariates:
        name = f"label_{covariate}" if f"label_{covariate}" in rows else covariate
        if name not in rows:
            raise InvalidRequest("the collection has no column for one of the recipe's covariates: leave it out")
        columns[covariate] = rows[name]
    if masks.MASKED in rows:
        columns[masks.MASKED] = rows[masks.MASKED]
    columns["split"] = rows["split"]
    columns["window_low"], columns["window_high"] = converted.windows.T
    columns["spacing_mm"] = converted.spacing_mm
    return pd.DataFrame(columns)


def _attributes(rows: pd.DataFrame, converted: _Converted, recipe: CohortRecipe) -> dict[str, Any]:
    """How stored values are to be read; physical units only where every image shares one window."""
    window, units = recipe.intensity_window, set(rows["units"])
    low, high = window or (0.0, 1.0)
    attributes: dict[str, Any] = {
        "intensity_range": [0, resample.STORED_MAX],
        "rescale_slope": (high - low) / resample.STORED_MAX,
        "rescale_intercept": low,
        "units": units.pop() if window and len(units) == 1 else "1",
    }
    spacing_mm = np.unique(converted.spacing_mm.round(6))
    if len(spacing_mm) == 1 and np.isfinite(spacing_mm[0]):
        attributes["spacing_mm"] = [float(spacing_mm[0])] * (3 if recipe.volumes else 2)
    return attributes


def _blocks(images_NSS: npt.NDArray[_Stored]) -> Iterator[npt.NDArray[_Stored]]:
    for start in range(0, len(images_NSS), SHARD_IMAGES):
        yield images_NSS[start : start + SHARD_IMAGES]
