from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medgan.cohort import layout, prepare, read, resample, volumes
from medgan.errors import InvalidRequest
from medgan.settings import Zones
from tests.builders.cohort import handle, xray_recipe
from tests.builders.volumes import SLICES, fading, volume_cohort, volume_collection, volume_rows


def test_a_series_becomes_one_volume_with_its_slices_in_order(tmp_path):
    zones = Zones.under(tmp_path)
    cohort = read.load(volume_cohort(zones, 12, size_px=28), zones=zones)
    assert cohort.images.shape == (12, 28, 28, 28)
    assert cohort.attrs["spacing_mm"] == [5.0] * 3
    assert cohort.table["patient_key"].nunique() == len(cohort.table) == 12
    pixels, _ = fading(12)
    number_of = {handle("se", i): i for i in range(12)}
    for volume, series in zip(cohort.images, cohort.table["series_key"], strict=True):
        wanted = pixels[number_of[series]].mean((1, 2))
        got = volume.reshape(SLICES, 2, 28, 28).mean((1, 2, 3))  # 10 mm between slices of 5 mm pixels
        assert np.corrcoef(wanted, got)[0, 1] > 0.99
        assert got.argmax() == wanted.argmax()


def test_a_recipe_without_volumes_keeps_the_handle_it_always_had():
    assert layout.handle("0" * 64, xray_recipe()) == "co-28a5c9315f0db478af7f0e287c94a70b"
    assert layout.handle("0" * 64, xray_recipe(volumes=True)) != layout.handle("0" * 64, xray_recipe())


def frames(count: int = 2) -> pd.DataFrame:
    pixels, labels = fading(count)
    return volume_rows(pixels, labels)


def test_series_with_a_gap_an_echo_or_few_slices_are_no_volumes():
    good = frames()
    assert volumes.only_volumes(good)["series_key"].nunique() == 2
    first = good["series_key"] == good["series_key"].iloc[0]
    spoilt = {
        "a gap": good.drop(index=good.index[5]),
        "an echo": good.assign(
            slice_position_mm=good["slice_position_mm"].where(~first, good["slice_position_mm"] // 20)
        ),
        "few slices": good[~first | (good["slice_position_mm"] < -40)],
        "no spacing": good.assign(spacing_row_mm=good["spacing_row_mm"].where(~first)),
    }
    for rows in spoilt.values():
        assert set(volumes.only_volumes(rows)["series_key"]) == set(good.loc[~first, "series_key"])


def test_a_collection_without_volumes_is_refused(tmp_path):
    zones = Zones.under(tmp_path)
    snapshot = volume_collection(zones, 3)
    with pytest.raises(InvalidRequest, match="its modality"):
        prepare.prepare(snapshot, xray_recipe(volumes=True), zones=zones)
    with pytest.raises(ValueError, match="not both"):
        xray_recipe(volumes=True, slices_per_series=3)


def test_an_inverted_volume_is_mirrored_as_a_whole():
    rows = frames(1).assign(photometric="MONOCHROME1", slice_mm=10.0)
    slices = [np.linspace(0, 10 + at, 28 * 28).reshape(28, 28) for at in range(SLICES)]
    recipe = xray_recipe(28, volumes=True, intensity_window=(0.0, 23.0))
    cube, _, _ = volumes.converted(rows, slices, recipe)
    plain, _, _ = volumes.converted(rows.assign(photometric="MONOCHROME2"), slices, recipe)
    assert np.abs(cube.astype(int) + plain - 65535).max() <= 1


def test_a_cube_keeps_proportions_and_pads_what_is_short():
    cube, voxel_mm = resample.to_cube(np.full((4, 8, 16), 7.0), 16, spacing_mm=(2.0, 1.0, 1.0))
    assert (cube.shape, voxel_mm) == ((16, 16, 16), 1.0)
    assert np.allclose(cube, 7.0)
    ramp = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 4, 4))
    cube, voxel_mm = resample.to_cube(ramp, 8, spacing_mm=(1.0, 1.0, 1.0))
    assert np.array_equal(cube[:, 2:6, 2:6], ramp)
    assert (cube[:, :2] == 0).all()
