"""NIfTI-1 volumes as multi-frame instances: voxels, affine and scale, and nothing of the header's free text.

NIfTI keeps voxels with the first index running fastest and an affine to RAS millimetres; frames here are
slices along the third index, then along time, rows along the second, columns along the first, and the
affine is turned to LPS. Source: nifti1.h of the NIfTI-1.1 data format (Cox et al. 2004).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from medgan.archive import limits, writer
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER_BYTES: Final = 348
_MAGIC: Final = b"n+1\0"
_TYPES: Final = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_MILLIMETRES: Final = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_QUANTA: Final = 65535  # floating-point volumes become 16 bits between their extremes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is believed of a NIfTI header: `shape` is (columns, rows, slices, times), `affine` (4, 4) to LPS mm."""

    order: str
    dtype: str
    shape: tuple[int, int, int, int]
    offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]


def is_nifti(data: bytes) -> bool:
    """Whether a file is a single-file NIfTI-1."""
    return data[344:348] == _MAGIC and data[:4] in {b"\x5c\x01\0\0", b"\0\0\x01\x5c"}


def read_header(data: bytes) -> Header:
    """Check a header against its file: UNSUPPORTED, TOO_LARGE, TRUNCATED or CORRUPT_HEADER."""
    if len(data) < _HEADER_BYTES + 4:
        raise BadInstance(Reason.TRUNCATED)
    order = "<" if data[:1] == b"\x5c" else ">"
    dimensions = struct.unpack_from(order + "8h", data, 40)
    kind = _TYPES.get(struct.unpack_from(order + "h", data, 70)[0])
    count = dimensions[0]
    if kind is None or not 2 <= count <= 4:  # noqa: PLR2004 - a plane, a volume, a series of volumes
        raise BadInstance(Reason.UNSUPPORTED)
    sides = [*dimensions[1 : count + 1], 1, 1][:4]
    offset, slope, intercept = struct.unpack_from(order + "3f", data, 108)
    if min(sides) < 1 or not math.isfinite(offset) or offset < _HEADER_BYTES:
        raise BadInstance(Reason.CORRUPT_HEADER)
    size = math.prod(sides) * int(kind[1])
    if size > limits.MAX_DECODED_BYTES or sides[2] * sides[3] > limits.MAX_FRAMES:
        raise BadInstance(Reason.TOO_LARGE)
    if int(offset) + size > len(data):
        raise BadInstance(Reason.TRUNCATED)
    scaled = math.isfinite(slope) and slope != 0 and math.isfinite(intercept)
    return Header(
        order=order,
        dtype=kind,
        shape=(sides[0], sides[1], sides[2], sides[3]),
        offset=int(offset),
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled else 0.0,
        affine=_affine(data, order),
    )


def _affine(data: bytes, order: str) -> NDArray[np.float64]:
    """Sform, else qform, else spacing alone; RAS to LPS is a change of sign of the first two axes."""
    qform, sform = struct.unpack_from(order + "2h", data, 252)
    spacing = struct.unpack_from(order + "8f", data, 76)
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.array(struct.unpack_from(order + "12f", data, 280)).reshape(3, 4)
    elif qform > 0:
        b, c, d, x, y, z = struct.unpack_from(order + "6f", data, 256)
        affine[:3, :3] = _rotation(b, c, d) * [spacing[1], spacing[2], spacing[3] * (-1 if spacing[0] < 0 else 1)]
        affine[:3, 3] = x, y, z
    else:
        affine[:3, :3] = np.diag(spacing[1:4])
    affine[:3] *= _MILLIMETRES.get(data[123] & 7, 1.0)
    affine[:2] *= -1
    if not np.isfinite(affine).all() or min(np.linalg.norm(affine[:3, :3], axis=0)) <= 0:
        raise BadInstance(Reason.CORRUPT_HEADER)
    return affine


def _rotation(b: float, c: float, d: float) -> NDArray[np.float64]:
    """Rotation of a unit quaternion given by its vector part (nifti1.h, method 2)."""
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )


def elements(data: bytes) -> list[writer.Element]:
    """The multi-frame pixel, geometry and rescale elements of a volume."""
    header = read_header(data)
    count = math.prod(header.shape)
    voxels = np.frombuffer(data, header.order + header.dtype, count, header.offset).reshape(header.shape[::-1])
    frames, slope, intercept = _integers(voxels.reshape(-1, header.shape[1], header.shape[0]), header)
    bits, signed = 8 * frames.itemsize, int(frames.dtype.kind == "i")
    return [
        (0x00280002, "US", 1),
        (0x00280004, "CS", "MONOCHROME2"),
        (0x00280008, "IS", str(len(frames))),
        (0x00280010, "US", header.shape[1]),
        (0x00280011, "US", header.shape[0]),
        (0x00280100, "US", bits),
        (0x00280101, "US", bits),
        (0x00280102, "US", bits - 1),
        (0x00280103, "US", signed),
        (0x00281052, "DS", _decimal(intercept)),
        (0x00281053, "DS", _decimal(slope)),
        *_geometry(header),
        (0x7FE00010, "OW" if bits > 8 else "OB", frames.astype(frames.dtype.newbyteorder("<")).tobytes()),  # noqa: PLR2004 - bits
    ]


def _integers(frames: NDArray[Any], header: Header) -> tuple[NDArray[Any], float, float]:
    """Integers as they are; floating-point voxels on 65,536 levels between their extremes."""
    if frames.dtype.kind != "f":
        return frames, header.slope, header.intercept
    low, high = float(frames.min()), float(frames.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise BadInstance(Reason.CORRUPT_PIXELS)
    step = (high - low) / _QUANTA or 1.0
    levels = np.rint((frames - low) / step).astype(np.uint16)
    return levels, step * header.slope, low * header.slope + header.intercept


def _geometry(header: Header) -> list[writer.Element]:
    """Functional groups (PS3.3 C.7.6.16): spacing and orientation once, the position of each frame."""
    column, row, step = (header.affine[:3, axis] for axis in range(3))
    widths = [float(np.linalg.norm(axis)) for axis in (column, row, step)]
    cosines = "\\".join(_decimal(value) for value in (*(column / widths[0]), *(row / widths[1])))
    measures = [
        (0x00180050, "DS", _decimal(widths[2])),
        (0x00280030, "DS", f"{_decimal(widths[1])}\\{_decimal(widths[0])}"),
    ]
    shared = [(0x00209116, "SQ", [[(0x00200037, "DS", cosines)]]), (0x00289110, "SQ", [measures])]
    corners = [header.affine[:3, 3] + step * number for number in range(header.shape[2])]
    places = ["\\".join(_decimal(value) for value in corner) for corner in corners] * header.shape[3]
    frames = [[(0x00209113, "SQ", [[(0x00200032, "DS", place)]])] for place in places]
    return [(0x52009229, "SQ", [shared]), (0x52009230, "SQ", frames)]


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 6.2)."""
    for digits in range(15, 5, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:  # noqa: PLR2004 - DS
            return text
    return f"{value:.5e}"
