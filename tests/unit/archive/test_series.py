"""Volumes lie where the scanner says: order, spacing, gaps and tilts, on real series and on built ones."""

from __future__ import annotations

import math
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest

from medgan.archive import instance, phantom, pixels, series
from medgan.archive.series import FrameGeometry
from tests.unit.archive.builders import rebuilt

REAL = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
MORE = Path(pytest.importorskip("data_store").__file__).parent / "data"


def _frame(position: tuple[float, float, float], *, tilt: float = 0.0) -> FrameGeometry:
    return FrameGeometry(
        position=position,
        row_direction=(1.0, 0.0, 0.0),
        column_direction=(0.0, math.cos(tilt), math.sin(tilt)),
        spacing_mm=(0.5, 0.75),
        thickness_mm=3.0,
    )


def _real(folder: str) -> tuple[list[Path], list[pydicom.Dataset], list[FrameGeometry]]:
    paths = sorted((REAL / folder).iterdir())
    headers = [instance.parse(path.read_bytes()) for path in paths]
    return paths, headers, [series.geometry(header)[0] for header in headers]


@pytest.mark.parametrize("folder", ["98892001/CT5N", "77654033/CT2"])
def test_real_series_are_sorted_as_gdcm_sorts_them(folder: str) -> None:
    paths, _, frames = _real(folder)
    (volume,) = series.volumes(frames)
    sorter = gdcm.IPPSorter()
    sorter.SetComputeZSpacing(True)
    assert sorter.Sort([str(path) for path in paths])
    assert [str(paths[index]) for index in volume.order] == list(sorter.GetFilenames())
    if not volume.uneven:
        assert volume.spacing_mm[0] == pytest.approx(sorter.GetZSpacing(), abs=1e-3)


def test_a_real_series_with_two_parts_shows_its_gap() -> None:
    (volume,) = series.volumes(_real("77654033/CT2")[2])
    assert volume.gaps == (0,)
    assert volume.spacing_mm[0] == pytest.approx(1.25)


def test_the_affine_sends_each_corner_to_its_header_position() -> None:
    _, headers, frames = _real("98892001/CT5N")
    (volume,) = series.volumes(frames)
    for place, index in enumerate(volume.order):
        corner = volume.affine @ np.array([0, 0, place, 1])
        np.testing.assert_allclose(corner[:3], headers[index].ImagePositionPatient, atol=1e-3)
    rows, columns = headers[0].PixelSpacing
    assert np.linalg.norm(volume.affine @ [1, 0, 0, 0]) == pytest.approx(columns)
    assert np.linalg.norm(volume.affine @ [0, 1, 0, 0]) == pytest.approx(rows)


def test_a_real_localizer_is_no_volume() -> None:
    """Seven slices through seven planes, and a pair of CT scouts."""
    assert [len(volume.order) for volume in series.volumes(_real("98892003/MR700")[2])] == [1] * 7
    assert [len(volume.order) for volume in series.volumes(_real("98892001/CT2N")[2])] == [1, 1]


def test_order_of_files_does_not_matter() -> None:
    frames = [_frame((0.0, 0.0, 2.0 * number)) for number in (3, 0, 2, 1)]
    (volume,) = series.volumes(frames)
    assert volume.order == (1, 3, 2, 0)
    assert volume.spacing_mm == (2.0, 0.5, 0.75)
    assert (volume.gaps, volume.uneven, volume.tilt_degrees) == ((), False, 0.0)


def test_a_missing_slice_is_a_gap() -> None:
    frames = [_frame((0.0, 0.0, 2.0 * number)) for number in range(10) if number != 6]
    (volume,) = series.volumes(frames)
    assert volume.gaps == (5,)
    assert volume.uneven
    assert volume.spacing_mm[0] == 2.0


def test_a_tilted_gantry_is_measured_and_its_affine_sheared() -> None:
    tilt = math.radians(15)
    frames = [_frame((0.0, 0.0, 4.0 * number), tilt=tilt) for number in range(5)]
    (volume,) = series.volumes(frames)
    assert volume.tilt_degrees == pytest.approx(15)
    assert volume.spacing_mm[0] == pytest.approx(4.0)
    for place, index in enumerate(volume.order):
        np.testing.assert_allclose((volume.affine @ [0, 0, place, 1])[:3], frames[index].position, atol=1e-9)


def test_time_points_become_volumes_of_their_own() -> None:
    frames = [_frame((0.0, 0.0, 2.0 * slice_)) for _ in range(3) for slice_ in range(4)]
    found = series.volumes(frames)
    assert [volume.order for volume in found] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]


def test_a_localizer_with_two_orientations_is_two_volumes() -> None:
    frames = [_frame((0.0, 0.0, 0.0)), _frame((0.0, 0.0, 0.0), tilt=math.pi / 2), _frame((0.0, 0.0, 5.0))]
    assert [volume.order for volume in series.volumes(frames)] == [(0, 2), (1,)]
    (_, single) = series.volumes(frames)
    assert math.isnan(single.spacing_mm[0])


def test_enhanced_frames_have_their_own_positions() -> None:
    frames = series.geometry(instance.parse((MORE / "eCT_Supplemental.dcm").read_bytes()))
    assert [frame.position for frame in frames] == [(99.5, -301.5, -159.0), (99.5, -301.5, -149.0)]
    assert series.geometry(instance.parse((MORE / "emri_small.dcm").read_bytes())) == ()  # says nothing of its frames


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00280030, "DS", "-1\\1"),
        (0x00280030, "DS", "0\\0"),
        (0x00200032, "DS", "NaN\\0\\0"),
        (0x00200037, "DS", "1\\0\\0\\1\\0\\0"),
        (0x00200037, "DS", "2\\0\\0\\0\\1\\0"),
        (0x00200037, "DS", "1\\0\\0"),
    ],
)
def test_a_geometry_that_is_none_is_not_said(tag: int, vr: str, value: str) -> None:
    good = [(0x00280030, "DS", "1\\1"), (0x00200032, "DS", "0\\0\\0"), (0x00200037, "DS", "1\\0\\0\\0\\1\\0")]
    assert len(series.geometry(instance.parse(rebuilt(good)))) == 1
    assert series.geometry(instance.parse(rebuilt([*good, (tag, vr, value)]))) == ()


def test_a_siemens_mosaic_is_cut_into_its_slices() -> None:
    tiles = np.arange(5, dtype=np.uint16)[:, None, None] * 100 + np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    mosaic = np.zeros((24, 24), np.uint16)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, 3)
        mosaic[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = tile
    dataset = instance.parse(
        rebuilt(
            [
                (0x00080008, "CS", "ORIGINAL\\PRIMARY\\M\\MOSAIC"),
                (0x00190010, "LO", "SIEMENS MR HEADER"),
                (0x0019100A, "US", 5),
                (0x00180088, "DS", "12"),
                (0x00200032, "DS", "-36\\-36\\16"),
                (0x00200037, "DS", "1\\0\\0\\0\\1\\0"),
                (0x00280010, "US", 24),
                (0x00280011, "US", 24),
                (0x00280030, "DS", "3\\3"),
                (0x7FE00010, "OW", mosaic.tobytes()),
            ]
        )
    )
    cut = series.unmosaic(dataset, pixels.decode(dataset).frames)
    assert cut is not None
    np.testing.assert_array_equal(cut[0], tiles)
    (volume,) = series.volumes(cut[1])
    assert volume.spacing_mm == (12.0, 3.0, 3.0)
    np.testing.assert_allclose(volume.affine[:3, 3], [-12, -12, 16])  # the tiles share the mosaic's centre


def test_what_is_no_mosaic_stays_whole() -> None:
    dataset = instance.parse(phantom.phantom_study(modality="MR")[0])
    assert series.unmosaic(dataset, pixels.decode(dataset).frames) is None
