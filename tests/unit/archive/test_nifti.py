"""A NIfTI volume becomes a multi-frame instance with the same voxels in the same place."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from medgan.archive import images, instance, nifti, pixels, series
from medgan.archive.images import Card
from medgan.errors import BadInstance
from medgan.settings import Zones
from tests.unit.archive.builders import KEYRING, scan_path, write_files

CARD = Card(patient_id="P-1", issuer="", modality="MR", number=1)


def _oblique() -> np.ndarray:
    """2 x 3 x 4 mm voxels, turned about two axes, in RAS."""
    a, b = 0.3, -0.2
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([2.0, 3.0, 4.0])
    affine[:3, 3] = -90, -126, -72
    return affine


AFFINE = _oblique()
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}


def nifti_file(
    voxels: np.ndarray,
    *,
    affine: np.ndarray = AFFINE,
    slope: float = 0.0,
    intercept: float = 0.0,
    order: str = "<",
    description: bytes = b"DOE^JANE",
) -> bytes:
    """`voxels` (columns, rows, slices[, times]) as a single NIfTI-1 file."""
    head = bytearray(352)
    struct.pack_into(order + "l", head, 0, 348)
    struct.pack_into(order + "8h", head, 40, voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim))
    kind = voxels.dtype.str[1:]
    struct.pack_into(order + "2h", head, 70, CODES[kind], 8 * voxels.dtype.itemsize)
    struct.pack_into(order + "3f", head, 108, 352.0, slope, intercept)
    head[123] = 2  # millimetres
    head[148 : 148 + len(description)] = description
    struct.pack_into(order + "2h", head, 252, 0, 1)
    struct.pack_into(order + "12f", head, 280, *affine[:3].ravel())
    head[344:348] = b"n+1\0"
    return bytes(head) + voxels.astype(order + kind).tobytes(order="F")


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_voxels_keep_their_values(kind: str, order: str) -> None:
    draw = np.random.default_rng(2)
    voxels = (draw.normal(100, 30, (5, 6, 7)) if kind.startswith("f") else draw.integers(0, 120, (5, 6, 7))).astype(
        kind
    )
    decoded = pixels.decode(instance.parse(images.wrap(nifti_file(voxels, order=order), CARD)))
    assert decoded.frames.shape == (7, 6, 5)
    physical = decoded.frames * decoded.rescale_slope + decoded.rescale_intercept
    step = (voxels.max() - voxels.min()) / 65535 if kind.startswith("f") else 0
    np.testing.assert_allclose(physical.transpose(2, 1, 0), voxels, atol=0.51 * step + 1e-9)


def test_the_scale_of_the_header_is_kept() -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    decoded = pixels.decode(instance.parse(images.wrap(nifti_file(voxels, slope=0.5, intercept=-10.0), CARD)))
    assert (decoded.rescale_slope, decoded.rescale_intercept) == (0.5, -10.0)
    assert decoded.frames.dtype == np.int16


def test_voxels_lie_where_the_affine_says_in_lps() -> None:
    voxels = np.zeros((5, 6, 7), np.int16)
    (volume,) = series.volumes(series.geometry(instance.parse(images.wrap(nifti_file(voxels), CARD))))
    assert len(volume.order) == 7
    for index in ((0, 0, 0), (4, 0, 0), (0, 5, 0), (4, 5, 6)):
        ras = AFFINE @ [*index, 1]
        np.testing.assert_allclose(volume.affine @ [*index, 1], ras * [-1, -1, 1, 1], atol=1e-3)


def test_time_points_follow_the_slices() -> None:
    voxels = np.arange(2 * 2 * 3 * 2, dtype=np.int16).reshape(2, 2, 3, 2)
    dataset = instance.parse(images.wrap(nifti_file(voxels), CARD))
    frames = pixels.decode(dataset).frames
    np.testing.assert_array_equal(frames[4], voxels[:, :, 1, 1].T)
    assert [volume.order for volume in series.volumes(series.geometry(dataset))] == [(0, 1, 2), (3, 4, 5)]


def test_a_quaternion_says_the_same_as_a_matrix() -> None:
    voxels = np.zeros((2, 2, 2), np.int16)
    whole = bytearray(nifti_file(voxels))
    struct.pack_into("<2h", whole, 252, 1, 0)
    struct.pack_into("<8f", whole, 76, -1.0, 2.0, 3.0, 4.0, 0, 0, 0, 0)
    struct.pack_into("<6f", whole, 256, 0.0, 0.0, 2**-0.5, 10.0, 20.0, 30.0)  # a quarter turn about z
    expected = np.array([[0, 3, 0, -10], [-2, 0, 0, -20], [0, 0, -4, 30], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(nifti.read_header(bytes(whole)).affine, expected, atol=1e-6)


def test_a_packed_volume_of_a_table_is_read_and_its_free_text_stays_behind(tmp_path: Path, zones: Zones) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    files = {
        "DOE_JANE/sub.nii.gz": gzip.compress(nifti_file(voxels), mtime=0),
        "DOE_JANE/other.nii": nifti_file(voxels + 1),
        "t.csv": b"file,PatientID,modality\nsub.nii.gz,P-1,MR\nDOE_JANE/other.nii,P-2,MR\n",
    }
    report, found = scan_path(write_files(tmp_path / "in", files), zones)
    assert (report.instances, report.patients, report.rejected) == (2, 2, {})
    for study in found.studies:
        data = instance.read(study.instances[0], zones=zones, keyring=KEYRING)
        assert b"DOE" not in data
        assert pixels.decode(instance.parse(data)).frames.shape == (5, 4, 3)


def _changed(at: int, layout: str, *values: float) -> bytes:
    whole = bytearray(nifti_file(np.zeros((4, 4, 4), np.int16)))
    struct.pack_into(layout, whole, at, *values)
    return bytes(whole)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_changed(0, "<l", 348)[:-1], "TRUNCATED"),
        (_changed(40, "<8h", 3, 30000, 30000, 4, 1, 1, 1, 1), "TOO_LARGE"),
        (_changed(40, "<8h", 3, -4, 4, 4, 1, 1, 1, 1), "CORRUPT_HEADER"),
        (_changed(40, "<8h", 7, 4, 4, 4, 1, 1, 1, 1), "UNSUPPORTED"),
        (_changed(70, "<h", 128), "UNSUPPORTED"),
        (_changed(108, "<f", float("nan")), "CORRUPT_HEADER"),
        (_changed(280, "<f", float("inf")), "CORRUPT_HEADER"),
        (_changed(0, "<l", 348)[:340], "TRUNCATED"),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadInstance) as refused:
        nifti.read_header(data)
    assert refused.value.reason == reason


def test_voxels_that_are_no_numbers_are_refused() -> None:
    voxels = np.full((2, 2, 2), np.nan, np.float32)
    with pytest.raises(BadInstance, match="CORRUPT_PIXELS"):
        images.wrap(nifti_file(voxels), CARD)
