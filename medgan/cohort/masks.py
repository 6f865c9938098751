"""Masks beside the images of a cohort: frames of segmentations, joined to the frames that they were drawn on.

A mask goes through the very geometry of its image, by nearest neighbour: a pixel is inside of a structure or not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort import resample, stored
from medgan.collection import read as collection
from medgan.errors import InvalidRequest
from medgan.records import CohortRecipe, CollectionSnapshot
from medgan.settings import Zones

MASKED = "masked"
"""Column of a cohort's table: whether somebody outlined a structure on the image; elsewhere its mask says nothing."""
_IMAGE = ["patient_key", "instance_key", "frame"]
_POSITION = ["position_x", "position_y", "position_z"]
_SPACING = ["spacing_row_mm", "spacing_column_mm"]
_GRID = ["pack", "orientation", *_SPACING, *_POSITION]
_OF_IMAGE = "_of_image"
_COSINES, _SCALES = 2e-3, 0.01
"""How far directions and spacings of one grid may differ: half a pixel in 250, as writers round them."""
_PLACE_MM = 0.1
"""How far from its image along the normal a mask may lie that is joined by place."""


def outlines(table: pd.DataFrame, rows: pd.DataFrame, recipe: CohortRecipe) -> tuple[pd.DataFrame, int]:
    """The frames of `table` that outline a wanted structure on an image of `rows`, and how many lie on another grid.

    Columns `pack`, `pack_index`, `inside_from`; `row` of the image in `rows`; `value` of the structure in its mask.
    A segmentation that is filed under another patient than its image is nobody's.
    """
    value_of = {_plain(name): number for number, name in enumerate(recipe.structures, start=1)}
    value_of = {name: value_of[_plain(name)] for name in collection.masks(table) if _plain(name) in value_of}
    wanted = table[table["structure"].isin(value_of)] if value_of else table.iloc[:0]
    if wanted.empty:
        return wanted, 0
    drawn = wanted.assign(value=wanted["structure"].map(value_of))
    frames = table.loc[table["instance_key"].isin(drawn["outlines"]), "instance_key"].value_counts()
    of_any = (drawn["outlines_frame"] < 0) & drawn["outlines"].isin(frames.index[frames > 1])
    by_place = drawn["outlines"].str.startswith("se-") | of_any
    # before rows are taken: a frame without any would get those of the column
    named = drawn.assign(instance_key=drawn["outlines"], frame=drawn["outlines_frame"].clip(lower=0))[~by_place]
    unplaced = drawn[
        by_place & (drawn["outlines"].isin(rows["series_key"]) | drawn["outlines"].isin(rows["instance_key"]))
    ]
    placed = _by_place(unplaced, table)
    drawn = pd.concat([named, placed], ignore_index=True)
    images = rows.assign(row=np.arange(len(rows)))[[*_IMAGE, *_GRID, "row"]]
    joined = drawn[[*_IMAGE, *_GRID, "pack_index", "inside_from", "value"]].merge(
        images, on=_IMAGE, suffixes=("", _OF_IMAGE)
    )
    same = _same_grid(joined)
    found = joined.loc[same, ["pack", "pack_index", "inside_from", "row", "value"]]
    return found, int((~same).sum()) + len(unplaced) - len(placed)


def _by_place(drawn: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Masks of a series or of any frame, each with the one image and frame on whose height along the normal it lies.

    Those are left out for which there is none, or where several images lie in one place: time points, echoes.
    """
    place, of = "slice_position_mm", ["patient_key", "outlines"]
    images = pd.concat(
        table[[*_IMAGE, place]].assign(outlines=table[holder])[table[holder].isin(drawn["outlines"])]
        for holder in ("series_key", "instance_key")
    )
    images = images.dropna(subset=place).sort_values([*of, place], kind="stable")
    step_mm = images.groupby(of)[place].diff()
    near = step_mm <= 2 * _PLACE_MM
    alone = images[~near & ~near.shift(-1, fill_value=False)]  # a group's first row has no step
    masks = drawn.drop(columns=["instance_key", "frame"])
    nearest = pd.merge_asof(
        masks.dropna(subset=place).sort_values(place, kind="stable"),
        alone.sort_values(place, kind="stable"),
        on=place,
        by=of,
        direction="nearest",
        tolerance=_PLACE_MM,  # type: ignore[arg-type]  # the stubs forget that floats are told apart by floats
    )
    return nearest.dropna(subset="instance_key").astype({"frame": "int64"})


def _same_grid(joined: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether mask and image have as many pixels and, where both say where they lie, those lie in the same places."""
    drawn_N3 = joined[_POSITION].to_numpy(dtype=np.float64)
    image_N3 = joined[[f"{axis}{_OF_IMAGE}" for axis in _POSITION]].to_numpy(dtype=np.float64)
    drawn_mm_N2 = joined[_SPACING].to_numpy(dtype=np.float64)
    image_mm_N2 = joined[[f"{name}{_OF_IMAGE}" for name in _SPACING]].to_numpy(dtype=np.float64)
    # comparisons are false where a number is not known; spacings are of one kind only where both know their place
    moved = np.linalg.norm(drawn_N3 - image_N3, axis=1) > image_mm_N2.min(axis=1) / 2
    scaled = (np.abs(drawn_mm_N2 - image_mm_N2) > _SCALES * image_mm_N2).any(axis=1)
    scaled &= np.isfinite(drawn_N3 - image_N3).all(axis=1)
    cosines = (_cosines(joined[f"orientation{end}"]) for end in ("", _OF_IMAGE))
    turned = (np.abs(np.subtract(*cosines)) > _COSINES).any(axis=1)
    size, of_image = (joined[name].str.split("-").str[0] for name in ("pack", f"pack{_OF_IMAGE}"))
    return np.asarray((size == of_image).to_numpy() & ~moved & ~scaled & ~turned, dtype=np.bool_)


def _cosines(orientations: pd.Series) -> npt.NDArray[np.float64]:
    """(N, 6) of the column `orientation`; NaN where it is not known."""
    codes, texts = pd.factorize(orientations)
    known = [[float(part) for part in text.split("\\")] if text else [np.nan] * 6 for text in texts]
    return np.array(known, np.float64).reshape(-1, 6)[codes]


def _plain(name: str) -> str:
    """A name as a person asks for it: SNOMED CT calls a heart `heart structure`, a rib `structure of rib`."""
    return name.lower().strip().removeprefix("structure of ").removesuffix(" structure")


def masked(found: pd.DataFrame, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(N,) which of `rows` have a mask."""
    return np.isin(np.arange(len(rows)), found["row"].to_numpy())


def refuse_lacking(found: pd.DataFrame, elsewhere: int, table: pd.DataFrame, recipe: CohortRecipe) -> None:
    """`InvalidRequest` where no image has a mask of one of the recipe's structures; it tells what there is instead.

    What was asked for is told by its place in the list: the names of the collection are words of a vocabulary, those
    of a recipe are anybody's.
    """
    lacking = sorted(set(range(1, len(recipe.structures) + 1)) - set(found["value"] if len(found) else ()))
    if not lacking:
        return
    held = ", ".join(f"{name} on {count:,}" for name, count in collection.masks(table).items())
    raise InvalidRequest(
        f"no selected image has a mask of structure {', '.join(map(str, lacking))} of the recipe's "
        f"{len(recipe.structures)}. Images of this collection with masks: {held or 'none'}. Masks that lie on another "
        f"grid than their image, and are not taken: {elsewhere:,}. `medgan collection show` lists the names"
    )


def drawn(
    snapshot: CollectionSnapshot, found: pd.DataFrame, rows: pd.DataFrame, size_px: int, *, beside: Path, zones: Zones
) -> npt.NDArray[np.uint8]:
    """(N, S, S) uint8 in a file of its own: 0, or the number of the last structure that holds the pixel."""
    masks_NSS = stored.mapped(beside, np.dtype(np.uint8), (len(rows), size_px, size_px))
    in_pack_order = found.sort_values(["pack", "pack_index"], kind="stable")
    frames = collection.frames(snapshot, in_pack_order, zones=zones)
    spacings = rows[["spacing_row_mm", "spacing_column_mm"]].to_numpy(dtype=np.float64)
    columns = (in_pack_order[name].to_numpy(dtype=np.int64) for name in ("row", "value", "inside_from"))
    for row, value, inside_from, frame in zip(*columns, frames, strict=True):
        row_mm, column_mm = spacings[row]
        inside_SS = resample.nearest(frame >= inside_from, size_px, spacing_mm=resample.known_mm(row_mm, column_mm))
        masks_NSS[row] = np.maximum(masks_NSS[row], inside_SS * np.uint8(value))
    return masks_NSS
