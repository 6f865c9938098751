"""Local cases: images with a target, whose patients stay apart; and synthetic cases in the same form.

A team brings an .npz: `images` (N, H, W), `target` (N,) of class names, class indices or numbers, and where it has
them `patient` (N,) and `classes`. Beside the target or instead of it there may be `masks` (N, H, W) of whole numbers, 0
for background, and `structures`, their names from 1 on. Registered, all of it lies in the pseudonymised zone under a
handle made of its content.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
_MOST_CLASSES, _MOST_STRUCTURES = 1000, 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """`unit` (N, S, S) float32 in [-1, 1]; `patient` (N,) int64.

    `target`: (N,) class index (int64) or number (float64), or masks (N, S, S) uint8.
    """

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
    given = _given(path)
    images, patient = _images(given)
    masks, structures, named = _masks(given, images.shape)
    target, classes = _target(given, len(images), optional=masks is not None)
    kept = {"images": images, "target": target, "patient": patient, "masks": masks}
    arrays = {name: array for name, array in kept.items() if array is not None}
    texts = {"classes": np.array(classes, str)} | ({} if masks is None else {"structures": np.array(named, str)})
    file = io.BytesIO()
    np.savez_compressed(file, **arrays, **texts)  # type: ignore[arg-type]  # numpy takes allow_pickle for one of them
    digest = hashlib.sha256()
    for part in arrays.values():
        digest.update(str((part.shape, part.dtype.str)).encode() + np.ascontiguousarray(part).tobytes())
    digest.update("\0".join(classes).encode())
    if named:
        digest.update(b"\0\0" + "\0".join(named).encode())
    record = LocalCases(
        cases=f"ca-{digest.hexdigest()[:32]}",
        content_sha256=digest.hexdigest(),
        images=len(images),
        patients=len(np.unique(patient)),
        classes=len(classes),
        structures=structures,
    )
    folder = folder_of(record.cases, zones=zones)
    with kept_apart(record.cases, zones=zones):
        durable.write_bytes(folder / CASES, file.getvalue())
        durable.write_bytes(folder / RECORD, record.canonical())
    return record


@contextmanager
def kept_apart(handle: str, *, zones: Zones) -> Iterator[None]:
    """Write to these cases' folder alone, and without what killed runs left there: it is of real patients."""
    folder = folder_of(handle, zones=zones)
    with durable.locked(folder.parent / ".locks" / handle):
        durable.sweep_below(folder)
        yield


def folder_of(handle: str, *, zones: Zones) -> Path:
    """Where registered cases and reports on them lie: they are of real patients."""
    return zones.pseudonymised / "personal" / handle


def load(record: LocalCases, size_px: int, *, zones: Zones, masks: bool = False) -> Cases:
    """Registered cases at `size_px`, each brought to [-1, 1] by its own percentiles; raises as `class_names`.

    Targets are the `masks` where these are asked for.
    """
    images, target, patient = _stored(record, ("images", "masks" if masks else "target", "patient"), zones)
    target = to_masks(target, size_px) if masks else target
    return Cases(unit=to_unit(images, size_px), target=target, patient=patient)


def structure_names(record: LocalCases, *, zones: Zones) -> tuple[str, ...]:
    """Names of the structures that masks outline; empty where the team gave none. Raises as `class_names`."""
    (names,) = _stored(record, ("structures",), zones)
    return tuple(map(str, names))


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
        raise InvalidRequest("there are no such cases, or no such target of theirs: register them first") from None
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


def to_masks(masks_NHW: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """(N, H, W) to (N, size_px, size_px) uint8 as `to_unit` does with images: each pixel the value most of it has."""
    out = np.zeros((len(masks_NHW), size_px, size_px), np.uint8)
    for number, mask in enumerate(masks_NHW):
        best = np.zeros((size_px, size_px))
        for value in np.unique(mask):
            share = resample.to_square((mask == value).astype(np.float64), size_px)
            out[number][share > best] = value
            best = np.maximum(best, share)
    return out


def synthetic_masks(dataset: Dataset, names: tuple[str, ...], structures: int, *, most: int) -> Cases:
    """At most `most` rows of a release with masks, evenly over its rows, as cases with the team's values of structures.

    `names` are the team's, in the order of their values; without names value k is the release's k-th structure. What
    else the release outlines is background. Raises `InvalidRequest` where it lacks a structure.
    """
    wanted = names or dataset.structures[:structures]
    missing = [name for name in wanted if name not in dataset.structures]
    if missing or len(wanted) < structures:
        known = f"outlines {', '.join(dataset.structures)}" if dataset.structures else "has no masks"
        raise InvalidRequest(
            f"the release lacks {max(len(missing), structures - len(wanted))} of the cases' {structures} structures; "
            f"it {known}"
        )
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(np.int64))
    value_of = np.zeros(1 + len(dataset.structures), np.uint8)
    for value, name in enumerate(wanted, start=1):
        value_of[1 + dataset.structures.index(name)] = value
    size_px = _flat_px(dataset)
    target = to_masks(value_of[dataset.masks[rows]], size_px)
    return Cases(unit=to_unit(dataset.images[rows], size_px), target=target, patient=np.arange(len(rows)))


def synthetic(dataset: Dataset, classes: tuple[str, ...], *, most: int, attribute: str = "class") -> Cases:
    """Rows of a release as cases: classes in the order of `classes`, or numbers of a column where it is empty.

    At most `most` a class, in row order. Raises `InvalidRequest` where the release lacks a class or the column.
    """
    labels = dataset.labels
    if not classes:
        if attribute not in labels:
            raise InvalidRequest("the release has no column with the target: choose another task or release")
        rows = np.flatnonzero(labels[attribute].notna().to_numpy())[:most]
        if labels[attribute].dtype.kind not in "biuf":
            raise InvalidRequest("the release's column for the target holds no numbers: choose another task or release")
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
    unit = to_unit(dataset.images[rows], _flat_px(dataset))
    return Cases(unit=unit, target=target, patient=np.arange(len(rows)))


def _flat_px(dataset: Dataset) -> int:
    """The working size of a release of flat images."""
    if dataset.images.ndim > 3:  # noqa: PLR2004 - (N, H, W)
        raise InvalidRequest("local cases are flat images, and this version holds volumes: choose another")
    return working_size(dataset.images.shape[1])


def _given(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a team's file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        arrays = {}
    if "images" not in arrays or not {"target", "masks"} & arrays.keys():
        raise InvalidRequest(
            "local cases are an .npz with arrays `images` (N, H, W) and `target` (N,), or `masks` (N, H, W)"
        )
    return arrays


def _images(given: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Images (N, H, W) of numbers, and whose they are as an index (N,)."""
    images = given["images"]
    if images.ndim != 3 or images.size == 0 or images.dtype.kind not in "uif":  # noqa: PLR2004 - (N, H, W)
        raise InvalidRequest("local cases need `images` (N, H, W) of numbers, and one `target` or mask an image")
    if not np.isfinite(images).all():
        raise InvalidRequest("an image of the local cases has values that are not finite")
    whose = given.get("patient", np.arange(len(images)))
    if whose.shape != (len(images),):
        raise InvalidRequest("`patient` names one patient an image")
    return images, np.unique(whose, return_inverse=True)[1].astype(np.int64)  # an index, no identifier


def _masks(
    given: dict[str, NDArray[Any]], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8] | None, int, tuple[str, ...]]:
    """Masks of the images' shape, how many structures they outline, and the names, where there are any."""
    masks = given.get("masks")
    if masks is None:
        return None, 0, ()
    if masks.shape != shape or masks.dtype.kind not in "biu":
        raise InvalidRequest("`masks` are whole numbers (N, H, W), a mask of an image's size for each image")
    named = _words(given.get("structures", np.array([], str)))
    count = len(named) or int(masks.max())
    if masks.min() < 0 or not 1 <= count <= _MOST_STRUCTURES or int(masks.max()) > count:
        raise InvalidRequest(f"masks have values from 0 to the number of `structures`, at most {_MOST_STRUCTURES}")
    if len({*named}) < len(named):
        raise InvalidRequest("`structures` names one twice")
    return masks.astype(np.uint8), count, named


def _target(
    given: dict[str, NDArray[Any]], count: int, *, optional: bool
) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """Targets (N,) and the names of their classes, none for numbers; None where they are `optional` and not there."""
    target = given.get("target")
    if target is None and optional:
        return None, ()
    if target is None or target.shape != (count,):
        raise InvalidRequest(
            "local cases need one `target` an image, a class or a number; label maps are given as `masks` (N, H, W)"
        )
    if target.dtype.kind == "f":
        if not np.isfinite(target).all():
            raise InvalidRequest("a target of the local cases is not finite")
        return target.astype(np.float64), ()
    if target.dtype.kind in "US":
        names, index = np.unique(_words(target), return_inverse=True)
        return index.astype(np.int64), tuple(map(str, names))
    if target.dtype.kind not in "biu" or int(target.max()) >= _MOST_CLASSES:
        raise InvalidRequest(f"`target` is a class name, a number, or an index below {_MOST_CLASSES:,}")
    index = target.astype(np.int64)
    named = _words(given.get("classes", np.arange(index.max() + 1)))
    if index.min() < 0 or index.max() >= len(named):
        raise InvalidRequest(f"a target lies outside of the {len(named)} classes")
    return index, named


def _words(names: NDArray[Any]) -> tuple[str, ...]:
    """Names that came as an array."""
    try:
        return tuple(map(str, names.reshape(-1).astype(str)))
    except UnicodeDecodeError:  # numpy takes bytes for ASCII
        raise InvalidRequest("names of classes and structures are text, or bytes of ASCII") from None
