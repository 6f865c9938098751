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
_GRID = ["pack", "spacing_row_mm", *_POSITION]
_OF_IMAGE = "_of_image"


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
    drawn = wanted.assign(
        instance_key=wanted["outlines"], frame=wanted["outlines_frame"], value=wanted["structure"].map(value_of)
    )
    images = rows.assign(row=np.arange(len(rows)))[[*_IMAGE, *_GRID, "row"]]
    joined = drawn[[*_IMAGE, *_GRID, "pack_index", "inside_from", "value"]].merge(
        images, on=_IMAGE, suffixes=("", _OF_IMAGE)
    )
    same = _same_grid(joined)
    return joined.loc[same, ["pack", "pack_index", "inside_from", "row", "value"]], int((~same).sum())


def _same_grid(joined: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether mask and image have as many pixels and, where both say where it is, their first one in one place."""
    drawn_N3 = joined[_POSITION].to_numpy(dtype=np.float64)
    image_N3 = joined[[f"{axis}{_OF_IMAGE}" for axis in _POSITION]].to_numpy(dtype=np.float64)
    pixel_mm = joined[f"spacing_row_mm{_OF_IMAGE}"].to_numpy(dtype=np.float64)
    # false where a number is not known; a mask in another orientation begins elsewhere
    moved = np.linalg.norm(drawn_N3 - image_N3, axis=1) > pixel_mm / 2
    size, of_image = (joined[name].str.partition("-")[0] for name in ("pack", f"pack{_OF_IMAGE}"))
    return np.asarray((size == of_image).to_numpy() & ~moved, dtype=np.bool_)


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
    snapshot: CollectionSnapshot, found: pd.DataFrame, rows: pd.DataFrame, size_px: int, *, scratch: Path, zones: Zones
) -> npt.NDArray[np.uint8]:
    """(N, S, S) uint8 in a file of its own: 0, or the number of the last structure that holds the pixel."""
    with scratch.open("xb+") as file:
        masks_NSS = stored.mapped(file, np.dtype(np.uint8), (len(rows), size_px, size_px))
    in_pack_order = found.sort_values(["pack", "pack_index"], kind="stable")
    frames = collection.frames(snapshot, in_pack_order, zones=zones)
    spacings = rows[["spacing_row_mm", "spacing_column_mm"]].to_numpy(dtype=np.float64)
    columns = (in_pack_order[name].to_numpy(dtype=np.int64) for name in ("row", "value", "inside_from"))
    for row, value, inside_from, frame in zip(*columns, frames, strict=True):
        row_mm, column_mm = spacings[row]
        inside_SS = resample.nearest(frame >= inside_from, size_px, spacing_mm=resample.known_mm(row_mm, column_mm))
        masks_NSS[row] = np.maximum(masks_NSS[row], inside_SS * np.uint8(value))
    return masks_NSS
