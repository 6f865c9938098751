"""Volumes are those that SimpleITK reads: same order, origin, axes, spacing and values.

Real series come with pydicom; `MEDGAN_SAMPLES` names a folder of more (every series below it is compared).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medgan.archive import instance, phantom, pixels, series
from medgan.errors import BadInstance

sitk = pytest.importorskip("SimpleITK")

REAL = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
FOLDERS = [REAL, *(Path(os.environ[name]) for name in ("MEDGAN_SAMPLES",) if os.environ.get(name))]
MOST_VOLUMES_OF_A_SERIES = 3


def even_volumes(folder: Path) -> list[tuple[str, list[Path], series.Volume]]:
    """(name, files in our order, volume) of every evenly spaced stack of at least three single-frame images."""
    of_series: dict[str, list[tuple[Path, series.FrameGeometry]]] = defaultdict(list)
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        try:
            dataset = instance.parse(path.read_bytes())
        except BadInstance:
            continue
        frames = series.geometry(dataset)
        if len(frames) == 1 and "PixelData" in dataset and "MOSAIC" not in str(dataset.get("ImageType", "")):
            size = (dataset.Rows, dataset.Columns)
            of_series[f"{dataset.SeriesInstanceUID} {size}"].append((path, frames[0]))
    found = []
    for name, members in of_series.items():
        stacks = series.volumes([frame for _, frame in members])
        even = [one for one in stacks if len(one.order) > 2 and not (one.uneven or one.gaps or one.tilt_degrees)]
        some = even[:MOST_VOLUMES_OF_A_SERIES]
        found += [(name, [members[index][0] for index in volume.order], volume) for volume in some]
    return found


def read_by_itk(files: Sequence[Path]):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in files])
    return reader.Execute()


def assert_same(files: Sequence[Path], volume: series.Volume) -> None:
    image = read_by_itk(files)
    spacing = np.array(image.GetSpacing())  # x, y, z
    direction = np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(volume.spacing_mm[::-1], spacing, rtol=2e-3)
    np.testing.assert_allclose(volume.affine[:3, 3], image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(volume.affine[:3, :3], direction * spacing, rtol=0, atol=2e-3 * spacing.max())
    decoded = [pixels.decode(instance.parse(path.read_bytes())) for path in files]
    ours = np.stack([one.frames[0] * one.rescale_slope + one.rescale_intercept for one in decoded])
    np.testing.assert_allclose(ours, sitk.GetArrayFromImage(image), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_even_real_volume_is_the_one_that_simpleitk_reads(folder: Path) -> None:
    found = even_volumes(folder)
    assert found
    for _, files, volume in found:
        assert_same(files, volume)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_are_sorted_as_simpleitk_sorts_them(folder: Path, tmp_path: Path) -> None:
    for number, (_, files, _) in enumerate(even_volumes(folder)):
        alone = tmp_path / str(number)
        alone.mkdir()
        for place, path in enumerate(reversed(files)):  # their names say the opposite
            (alone / f"{place:04d}.dcm").symlink_to(path)
        (series_id,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(alone))
        theirs = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(alone), series_id)
        assert [Path(name).resolve() for name in theirs] == [path.resolve() for path in files]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_phantom_volume_is_the_one_that_simpleitk_reads(modality: str, tmp_path: Path) -> None:
    for number, content in enumerate(phantom.phantom_study(modality=modality, instances=7, rows=24, columns=20)):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    ((_, files, volume),) = even_volumes(tmp_path)
    assert len(files) == 7
    assert_same(files, volume)
