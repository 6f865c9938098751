"""What stands in the store, read once: whatever is wrong with it is an `IntegrityError`, never a crash."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
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
IMAGES, MASKS = "images", "masks"
"""Arrays of a cohort's group; `masks` is there where structures are."""
STRUCTURES = "structures"
"""Attribute of `masks`: the list of names, of which value k means the k-th."""
_IN_MEMORY_BYTES, _AT_ONCE_BYTES = 1 << 30, 64 << 20
"""Images up to this size are held in memory anyway; how much of larger ones is read at once."""

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


def images(
    path: Path, *, count: int, side_px: int, beside: Path | None = None
) -> tuple[npt.NDArray[np.uint16], dict[str, Any]]:
    """The array `images` of the Zarr v3 group `path`, and its attributes: (count, side_px, side_px) uint16, or volumes.

    The size is compared before anything is read. More than a GiB goes into a nameless file in the folder `beside`,
    where one is given: memory then holds what is looked at, and nobody can change the rest meanwhile.

    Raises:
        IntegrityError: the size is another one or the bytes are damaged.
        StoreUnavailable: the disk does not give them.
    """
    return _array(path / IMAGES, np.dtype(np.uint16), (count, side_px, side_px), MAX_DEPTH, beside)


def masks(
    path: Path, *, count: int, side_px: int, structures: Sequence[str], beside: Path | None = None
) -> npt.NDArray[np.uint8] | None:
    """The array `masks` (count, side_px, side_px) uint8 of the group `path`; None where there are no `structures`.

    Raises:
        IntegrityError: its size, names or values are not of these structures, or the bytes are damaged.
        StoreUnavailable: the disk does not give them.
    """
    if not structures:
        return None
    found, attrs = _array(path / MASKS, np.dtype(np.uint8), (count, side_px, side_px), 1, beside)
    if attrs.get(STRUCTURES) != list(structures) or found.max(initial=0) > len(structures):
        raise IntegrityError("stored masks are not of their record's structures: restore or make them again")
    return found


def _array(
    path: Path, dtype: np.dtype[Any], flat: tuple[int, int, int], most_deep: int, beside: Path | None
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    with durable.explained_disk():
        try:
            array = zarr.open_array(path, mode="r", zarr_format=3)
            depth = math.prod(array.shape[1:-2])
            fits = (array.shape[0], *array.shape[-2:]) == flat and depth <= most_deep and array.dtype == dtype
            found = _whole(array, beside) if fits else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
            found = None
    if found is None:
        raise IntegrityError(
            f"stored {path.name} are damaged, or not those of their record: restore or make them again"
        )
    return found, dict(array.attrs.asdict())


def _whole(array: zarr.Array[Any], beside: Path | None) -> npt.NDArray[Any]:
    if beside is None or array.nbytes <= _IN_MEMORY_BYTES:
        return np.asarray(array[:])
    found = mapped(beside, array.dtype, array.shape)
    rows = (array.shards or array.chunks)[0]
    rows *= max(1, _AT_ONCE_BYTES // (rows * found[0].nbytes))
    for start in range(0, len(found), rows):
        found[start : start + rows] = array[start : start + rows]
    return found


def mapped(beside: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Zeros of this `shape` in a nameless file in the folder `beside` instead of memory; gone however a process ends.

    A full disk is told here as an `OSError`, and not by a signal that ends the process when they are written to.
    """
    with tempfile.TemporaryFile(dir=beside) as file:
        os.posix_fallocate(file.fileno(), 0, dtype.itemsize * math.prod(shape))
        return np.memmap(file, dtype, "r+", shape=shape)
