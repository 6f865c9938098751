"""Read a cohort, and refuse one whose bytes are not what its record says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort import layout
from medgan.cohort import stored as stored_bytes
from medgan.cohort.split import SPLITS
from medgan.cohort.write import content_digest, with_masks
from medgan.collection import table as tables
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import CohortSnapshot
from medgan.settings import Zones


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """A cohort in memory.

    `images` is (N, H, W) or (N, D, H, W) uint16; row i of `table` describes image i (columns in docs/data-format.md);
    `classes` are sorted; `attrs` holds `intensity_range` [lo, hi] in stored units, which map to [-1, 1],
    `rescale_slope`, `rescale_intercept` and `units` (physical = stored x slope + intercept), and `spacing_mm`
    where all images share one. `masks` is (N, H, W) uint8 where the recipe has structures: value k is the k-th of them,
    and it says something of images that are `masked` in the table.
    """

    snapshot: CohortSnapshot
    images: npt.NDArray[np.uint16]
    table: pd.DataFrame
    classes: tuple[str, ...]
    attrs: dict[str, Any]
    masks: npt.NDArray[np.uint8] | None = None

    @property
    def class_index(self) -> npt.NDArray[np.int64]:
        """(N,) int64: index of each row's class in `classes`."""
        index_of = {name: index for index, name in enumerate(self.classes)}
        return np.array([index_of[name] for name in self.table["class"]], dtype=np.int64)

    def split(self, name: str) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], pd.DataFrame]:
        """Images (n, H, W) uint16, class index (n,) int64 and table of one split, in row order."""
        if name not in SPLITS:
            raise InvalidRequest(f"a split is one of {', '.join(SPLITS)}")
        rows = np.flatnonzero((self.table["split"] == name).to_numpy())
        return self.images[rows], self.class_index[rows], self.table.iloc[rows].reset_index(drop=True)


def record(cohort: str, *, zones: Zones) -> CohortSnapshot | None:
    """The record of a finished cohort, or None."""
    return stored_bytes.record(layout.folder(cohort, zones=zones) / layout.RECORD, CohortSnapshot)


def is_of(handle: str, cohort: CohortSnapshot, *, zones: Zones) -> bool:
    """Whether `handle` names this cohort or one of the same content: a collection may change beside a cohort's images.

    A model is named by content, so the one that was trained before such a change is found again after it.
    """
    if handle == cohort.cohort:
        return True
    other = record(handle, zones=zones)
    return other is not None and other.content_sha256 == cohort.content_sha256


def load(cohort: CohortSnapshot | str, *, zones: Zones) -> Cohort:
    """Load a cohort by record or handle.

    Raises:
        InvalidRequest: there is no such cohort.
        IntegrityError: images, masks or table are not what the record's digest says.
    """
    handle = cohort if isinstance(cohort, str) else cohort.cohort
    stored = record(handle, zones=zones)
    if stored is None:
        raise InvalidRequest(f"there is no cohort {handle}: prepare it first")
    if isinstance(cohort, CohortSnapshot) and cohort != stored:
        raise IntegrityError(f"the record given for cohort {handle} is not the one in the store")
    folder = layout.folder(handle, zones=zones)
    size: dict[str, Any] = {"count": stored.images, "side_px": stored.size_px}
    images, attrs = stored_bytes.images(folder / layout.IMAGES, **size)
    masks = stored_bytes.masks(folder / layout.IMAGES, structures=stored.recipe.structures, **size)
    table = tables.from_parquet((folder / layout.TABLE).read_bytes())
    pixel_sha256 = hashlib.sha256(np.ascontiguousarray(images, dtype="<u2").tobytes()).hexdigest()
    if masks is not None:
        pixel_sha256 = with_masks(pixel_sha256, hashlib.sha256(masks.tobytes()).hexdigest())
    if content_digest(pixel_sha256, table) != stored.content_sha256:
        raise IntegrityError(f"cohort {handle} is not what its digest says: restore it, or prepare it again")
    return Cohort(snapshot=stored, images=images, table=table, classes=stored.classes, attrs=attrs, masks=masks)
