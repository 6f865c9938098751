"""What stands in the store, read once: whatever is wrong with it is an `IntegrityError`, never a crash."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
from pydantic import ValidationError

from medgan.collection import durable
from medgan.errors import IntegrityError
from medgan.records import Record

MAX_DEPTH = 1024
"""Images of a volume: more is no volume that anything here makes."""

_AnyRecord = TypeVar("_AnyRecord", bound=Record)


def record(path: Path, kind: type[_AnyRecord]) -> _AnyRecord | None:
    """The record in a file, or None where there is no file; `IntegrityError` when it is no such record."""
    with durable.explained_disk():
        if not path.is_file():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError:
            raise IntegrityError(f"{path.name} in the store is damaged: restore it from a copy") from None


def images(path: Path, *, count: int, side_px: int) -> tuple[npt.NDArray[np.uint16], dict[str, Any]]:
    """The array `images` of the Zarr v3 group `path`, and its attributes: (count, side_px, side_px) uint16, or volumes.

    The size is compared before anything is read. `IntegrityError` when it is another one or the bytes are damaged,
    `StoreUnavailable` when the disk does not give them.
    """
    with durable.explained_disk():
        try:
            array = zarr.open_array(path / "images", mode="r", zarr_format=3)
            flat, depth = (count, side_px, side_px), math.prod(array.shape[1:-2])
            fits = (array.shape[0], *array.shape[-2:]) == flat and depth <= MAX_DEPTH and array.dtype == np.uint16
            found = np.asarray(array[:]) if fits else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
            found = None
    if found is None:
        raise IntegrityError("stored images are damaged, or not those of their record: restore or make them again")
    return found, dict(array.attrs.asdict())
