"""Where frames lie in the patient: geometry of each frame, and stacks of frames as volumes.

Everything is in LPS millimetres (x to the patient's left, y to the back, z to the head), as DICOM has it.
Sources: PS3.3 2026c C.7.6.2.1 (image plane), C.7.6.16.2 (functional groups), C.7.6.3.1 (spacing);
Siemens mosaics: the tiles of one EPI volume in one image, first tile top left, their number in a private element.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.dataset import Dataset

from medgan.archive.quiet import quietly

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOSAIC_TILES: Final = (0x0019, 0x0A)  # element of the block that SIEMENS MR HEADER reserves
_MOSAIC_CREATOR: Final = "SIEMENS MR HEADER"
_ROUND_MM: Final = 3  # positions within a micrometre of each other are one
_ROUND_COSINE: Final = 4
_GAP: Final = 1.5  # a step that is half as long again as the usual one skips a slice
_UNEVEN: Final = 0.02  # steps that differ by less than 2 % are one spacing: positions are rounded by scanners
_TILT_DEGREES: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameGeometry:
    """One frame: LPS mm of its first voxel's centre, unit vectors along its rows and columns, mm between voxels.

    `row_direction` is the direction in which the column index grows (the first three cosines of
    ImageOrientationPatient); `spacing_mm` is (between rows, between columns).
    """

    position: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    spacing_mm: tuple[float, float]
    thickness_mm: float = math.nan

    @property
    def normal(self) -> tuple[float, float, float]:
        """Unit vector away from the first slice of a right-handed stack."""
        (rx, ry, rz), (cx, cy, cz) = self.row_direction, self.column_direction
        return (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)

    @property
    def depth_mm(self) -> float:
        """Position along the normal."""
        return sum(a * b for a, b in zip(self.normal, self.position, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A geometry-consistent stack: `order` are indices of the given frames, first slice first.

    `affine` (4, 4) maps (column, row, slice, 1) to LPS mm. `spacing_mm` is (slice, row, column); the slice
    spacing is the median step and NaN for one frame. `gaps` are slices after which others are missing,
    `uneven` says that steps differ by more than 2 %, `tilt_degrees` is the gantry's.
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    gaps: tuple[int, ...] = ()
    uneven: bool = False
    tilt_degrees: float = 0.0


def geometry(dataset: Dataset) -> tuple[FrameGeometry, ...]:
    """Geometry of every frame of one instance; empty where the file does not say where its frames lie.

    Classic images have one frame and their own attributes; enhanced ones say it per frame, or once for
    all frames. Values that are no finite numbers, zero spacings and skewed axes count as not said.
    """
    with quietly():
        per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
        if not per_frame:
            one = _plane(dataset, dataset, dataset)
            single = int(dataset.get("NumberOfFrames", 1) or 1) == 1
            return (one,) if one is not None and single else ()
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        frames = [_plane_of_groups(groups, shared) for groups in per_frame]
    return tuple(frame for frame in frames if frame is not None) if None not in frames else ()


def volumes(frames: Sequence[FrameGeometry]) -> tuple[Volume, ...]:
    """Stack frames of one series: one volume for each orientation, spacing and repetition of positions.

    A position that occurs k times (time points, echoes, b-values) goes to k volumes, in the order in which
    the frames were given. Volumes come in the order of their first frames.
    """
    families: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        families[_family(frame)].append(index)
    stacks: list[list[int]] = []
    for family in families.values():
        repetitions: dict[float, int] = defaultdict(int)
        own: dict[int, list[int]] = defaultdict(list)
        for index in family:
            depth = round(frames[index].depth_mm, _ROUND_MM)
            own[repetitions[depth]].append(index)
            repetitions[depth] += 1
        stacks.extend(own[repetition] for repetition in sorted(own))
    stacks.sort(key=min)
    return tuple(_stack(frames, stack) for stack in stacks)


def unmosaic(dataset: Dataset, frames: NDArray[Any]) -> tuple[NDArray[Any], tuple[FrameGeometry, ...]] | None:
    """Tiles of a Siemens mosaic as frames (N, h, w) with their geometry; None where the image is none.

    The header's position is that of the whole mosaic's corner: the corner of a tile lies half the
    difference of the two extents further in (the tiles share one centre). Slices follow the normal at
    SpacingBetweenSlices.
    """
    tiles = _tiles(dataset)
    plane = _plane(dataset, dataset, dataset)
    if tiles is None or plane is None or frames.shape[0] != 1:
        return None
    across = math.ceil(math.sqrt(tiles))
    rows, columns = frames.shape[1] // across, frames.shape[2] // across
    if rows * across != frames.shape[1] or columns * across != frames.shape[2]:
        return None
    grid = frames[0].reshape(across, rows, across, columns).transpose(0, 2, 1, 3).reshape(-1, rows, columns)
    step = _real(dataset.get("SpacingBetweenSlices"))
    step = step if math.isfinite(step) and step > 0 else plane.thickness_mm
    row, column = np.array(plane.row_direction), np.array(plane.column_direction)
    inward = row * (frames.shape[2] - columns) / 2 * plane.spacing_mm[1]
    inward = inward + column * (frames.shape[1] - rows) / 2 * plane.spacing_mm[0]
    first, normal = np.array(plane.position) + inward, np.array(plane.normal)
    geometries = tuple(
        FrameGeometry(
            position=_triple(first + number * step * normal),
            row_direction=plane.row_direction,
            column_direction=plane.column_direction,
            spacing_mm=plane.spacing_mm,
            thickness_mm=plane.thickness_mm,
        )
        for number in range(tiles)
    )
    return np.ascontiguousarray(grid[:tiles]), geometries


def _tiles(dataset: Dataset) -> int | None:
    if "MOSAIC" not in [str(value) for value in dataset.get("ImageType", None) or ()]:
        return None
    try:
        with quietly():
            block = dataset.private_block(_MOSAIC_TILES[0], _MOSAIC_CREATOR)
            tiles = int(block[_MOSAIC_TILES[1]].value)
    except (KeyError, TypeError, ValueError):
        return None
    return tiles if tiles > 0 else None


def _plane_of_groups(groups: Dataset, shared: Dataset) -> FrameGeometry | None:
    def of(name: str) -> Dataset:
        for holder in (groups, shared):
            items = holder.get(name)
            if items:
                return items[0]  # type: ignore[no-any-return]
        return Dataset()

    return _plane(of("PlanePositionSequence"), of("PlaneOrientationSequence"), of("PixelMeasuresSequence"))


def _plane(position: Dataset, orientation: Dataset, measures: Dataset) -> FrameGeometry | None:
    where = _reals(position.get("ImagePositionPatient"), 3)
    cosines = _reals(orientation.get("ImageOrientationPatient"), 6)
    spacing = _reals(measures.get("PixelSpacing"), 2)
    if where is None or cosines is None or spacing is None or min(spacing) <= 0:
        return None
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if not all(abs(length - 1) < 0.01 for length in lengths) or abs(float(row @ column)) > 0.01:  # noqa: PLR2004 - rounded cosines
        return None
    return FrameGeometry(
        position=_triple(where),
        row_direction=_triple(row / lengths[0]),
        column_direction=_triple(column / lengths[1]),
        spacing_mm=(spacing[0], spacing[1]),
        thickness_mm=_real(measures.get("SliceThickness")),
    )


def _reals(value: Any, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(one) for one in value)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _real(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _triple(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _family(frame: FrameGeometry) -> tuple[float, ...]:
    """What frames of one volume share, rounded."""
    cosines = (*frame.row_direction, *frame.column_direction)
    # adding zero makes one of -0.0 and 0.0
    return (*(round(one, _ROUND_COSINE) + 0.0 for one in cosines), *(round(one, _ROUND_MM) for one in frame.spacing_mm))


def _stack(frames: Sequence[FrameGeometry], stack: Sequence[int]) -> Volume:
    order = sorted(stack, key=lambda index: frames[index].depth_mm)
    first, last = frames[order[0]], frames[order[-1]]
    steps = np.diff([frames[index].depth_mm for index in order])
    step = float(np.median(steps)) if len(steps) else math.nan
    travel = np.array(last.position) - np.array(first.position)
    reach = float(np.linalg.norm(travel))
    direction = travel / reach if reach > 0 else np.array(first.normal)
    cosine = min(1.0, abs(float(direction @ np.array(first.normal))))
    tilt = math.degrees(math.acos(cosine))
    along = step / cosine if len(steps) and cosine > 0 else 0.0
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.row_direction) * first.spacing_mm[1]
    affine[:3, 1] = np.array(first.column_direction) * first.spacing_mm[0]
    affine[:3, 2] = direction * along if along else np.array(first.normal)
    affine[:3, 3] = first.position
    return Volume(
        order=tuple(order),
        affine=affine,
        spacing_mm=(along or math.nan, *first.spacing_mm),
        gaps=tuple(int(at) for at in np.flatnonzero(steps > _GAP * step)),
        uneven=bool(len(steps) and (np.abs(steps - step) > _UNEVEN * step).any()),
        tilt_degrees=tilt if tilt > _TILT_DEGREES else 0.0,
    )
