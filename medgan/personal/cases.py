"""Local cases: images with a target, whose patients stay apart; and synthetic cases in the same form.

A team brings an .npz: `images` (N, H, W), `target` (N,) of class names, class indices or numbers, and where it has
them `patient` (N,) and `classes`. Registered, it lies in the pseudonymised zone under a handle made of its content.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.client.load import Dataset
from medgan.cohort import resample
from medgan.collection import durable
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import LocalCases
from medgan.settings import Zones

CASES, RECORD = "cases.npz", "cases.json"
_LEAST_PX, _MOST_PX = 16, 128
_MOST_CLASSES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """`unit` (N, S, S) float32 in [-1, 1]; `target` (N,) class index (int64) or number (float64); `patient` (N,)."""

    unit: NDArray[np.float32]
    target: NDArray[Any]
    patient: NDArray[np.int64]

    def __len__(self) -> int:
        """Cases."""
        return len(self.unit)

    def rows(self, chosen: NDArray[np.int64]) -> Cases:
        """Some of them."""
        return Cases(unit=self.unit[chosen], target=self.target[chosen], patient=self.patient[chosen])


def register(path: Path, *, zones: Zones) -> LocalCases:
    """Take a team's .npz into the pseudonymised zone; the same content again gives the same record.

    Raises:
        InvalidRequest: not such a file, or arrays that do not fit together.
    """
    images, target, patient, classes = _read(path)
    file = io.BytesIO()
    np.savez_compressed(file, images=images, target=target, patient=patient, classes=np.array(classes, str))
    digest = hashlib.sha256()
    for part in (images, target, patient):
        digest.update(str((part.shape, part.dtype.str)).encode() + np.ascontiguousarray(part).tobytes())
    digest.update("\0".join(classes).encode())
    record = LocalCases(
        cases=f"ca-{digest.hexdigest()[:32]}",
        content_sha256=digest.hexdigest(),
        images=len(images),
        patients=len(np.unique(patient)),
        classes=len(classes),
    )
    folder = folder_of(record.cases, zones=zones)
    durable.write_bytes(folder / CASES, file.getvalue())
    durable.write_bytes(folder / RECORD, record.canonical())
    return record


def folder_of(handle: str, *, zones: Zones) -> Path:
    """Where registered cases and reports on them lie: they are of real patients."""
    return zones.pseudonymised / "personal" / handle


def load(record: LocalCases, size_px: int, *, zones: Zones) -> Cases:
    """Registered cases at `size_px`, each brought to [-1, 1] by its own percentiles; raises as `class_names`."""
    images, target, patient = _stored(record, ("images", "target", "patient"), zones)
    return Cases(unit=to_unit(images, size_px), target=target, patient=patient)


def class_names(record: LocalCases, *, zones: Zones) -> tuple[str, ...]:
    """Names of the targets, in their order; empty where targets are numbers.

    Raises:
        InvalidRequest: there are no such cases.
        IntegrityError: the stored record is another.
    """
    (names,) = _stored(record, ("classes",), zones)
    return tuple(map(str, names))


def _stored(record: LocalCases, arrays: Sequence[str], zones: Zones) -> list[NDArray[Any]]:
    folder = folder_of(record.cases, zones=zones)
    try:
        stored = LocalCases.model_validate_json((folder / RECORD).read_bytes())
        with np.load(folder / CASES, allow_pickle=False) as held:
            found = [held[name] for name in arrays]
    except (OSError, ValueError, KeyError):
        raise InvalidRequest("there are no cases under this handle: register them first") from None
    if stored != record:
        raise IntegrityError("the cases' record is not the one in the store: register them again")
    return found


def working_size(size_px: int) -> int:
    """The power of two that images are compared and trained at: the one above, from 16 to 128 px."""
    return int(np.clip(2 ** np.ceil(np.log2(size_px)), _LEAST_PX, _MOST_PX))


def to_unit(images: NDArray[Any], size_px: int) -> NDArray[np.float32]:
    """(N, H, W) of any unit to (N, size_px, size_px) float32 in [-1, 1], percentiles 0.1 and 99.9 of each image."""
    out = np.empty((len(images), size_px, size_px), np.float32)
    for number, image in enumerate(images):
        values = np.asarray(image, np.float64)
        lo, hi = resample.window_of(values, (0.1, 99.9))
        square = resample.to_square(np.clip((values - lo) / (hi - lo), 0, 1), size_px)
        out[number] = square * 2 - 1
    return out


def synthetic(dataset: Dataset, classes: tuple[str, ...], *, most: int, attribute: str = "class") -> Cases:
    """Rows of a release as cases: classes in the order of `classes`, or numbers of a column where it is empty.

    At most `most` a class, in row order. Raises `InvalidRequest` where the release lacks a class or the column.
    """
    labels = dataset.labels
    if not classes:
        if attribute not in labels:
            raise InvalidRequest("the release has no column with the target: choose another task or release")
        rows = np.flatnonzero(labels[attribute].notna().to_numpy())[:most]
        target: NDArray[Any] = labels[attribute].to_numpy(np.float64)[rows]
    else:
        missing = sorted(set(classes) - set(dataset.classes))
        if missing:
            raise InvalidRequest(
                f"the release does not know {len(missing)} of the cases' {len(classes)} classes; it has "
                f"{', '.join(dataset.classes)}"
            )
        of = np.array([dataset.classes.index(name) for name in classes])
        index = dataset.class_index
        rows = np.sort(np.concatenate([np.flatnonzero(index == one)[: max(1, most // len(of))] for one in of]))
        target = np.searchsorted(np.sort(of), index[rows])
        target = np.argsort(of)[target]
    if dataset.images.ndim > 3:  # noqa: PLR2004 - (N, H, W)
        raise InvalidRequest("local cases are flat images, and this version holds volumes: choose another")
    unit = to_unit(dataset.images[rows], working_size(dataset.images.shape[1]))
    return Cases(unit=unit, target=target, patient=np.arange(len(rows)))


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], tuple[str, ...]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        images, target = arrays["images"], arrays["target"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InvalidRequest("local cases are an .npz with arrays `images` (N, H, W) and `target` (N,)") from None
    if images.ndim != 3 or target.shape != (len(images),) or len(images) == 0 or images.dtype.kind not in "uif":  # noqa: PLR2004
        raise InvalidRequest(
            "local cases need `images` (N, H, W) of numbers and one `target` an image, a class or a number; masks "
            "(segmentation) are not offered: releases hold none"
        )
    if not np.isfinite(images).all():
        raise InvalidRequest("an image of the local cases has values that are not finite")
    whose = arrays.get("patient", np.arange(len(images)))
    if whose.shape != (len(images),):
        raise InvalidRequest("`patient` names one patient an image")
    _, patient = np.unique(whose, return_inverse=True)  # an index, no identifier
    if target.dtype.kind == "f":
        if not np.isfinite(target).all():
            raise InvalidRequest("a target of the local cases is not finite")
        return images, target.astype(np.float64), patient.astype(np.int64), ()
    if target.dtype.kind in "US":
        names, index = np.unique(target.astype(str), return_inverse=True)
        return images, index.astype(np.int64), patient.astype(np.int64), tuple(map(str, names))
    if target.dtype.kind not in "biu" or int(target.max()) >= _MOST_CLASSES:
        raise InvalidRequest(f"`target` is a class name, a number, or an index below {_MOST_CLASSES:,}")
    index = target.astype(np.int64)
    named = tuple(map(str, arrays.get("classes", np.arange(index.max() + 1)).astype(str)))
    if index.min() < 0 or index.max() >= len(named):
        raise InvalidRequest(f"a target lies outside of the {len(named)} classes")
    return images, index, patient.astype(np.int64), named
