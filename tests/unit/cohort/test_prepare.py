import errno
import os

import numpy as np
import pytest
import zarr

from medgan.cohort import layout, prepare, read, split
from medgan.collection import read as collection
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable
from medgan.records import sha256_hex
from medgan.settings import Zones
from tests.builders.cohort import (
    STRUCTURES,
    commit,
    handle,
    lung_and_heart,
    outlined,
    prepared_cohort,
    radiographs,
    xray_recipe,
    xray_rows,
)


@pytest.fixture
def zones(tmp_path):
    return Zones.under(tmp_path)


def build(zones, count=60, recipe=None, change=lambda rows, pixels: (rows, pixels)):
    pixels, labels = radiographs(count)
    rows, pixels = change(xray_rows(pixels, labels), pixels)
    snapshot = commit(rows, pixels, zones)
    prepared = prepare.prepare(snapshot, recipe or xray_recipe(), zones=zones)
    return snapshot, prepared, read.load(prepared, zones=zones)


def test_a_cohort_is_named_by_its_content_and_prepared_once(zones, tmp_path):
    snapshot, prepared, _ = build(zones)
    folder = layout.folder(prepared.cohort, zones=zones)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert prepare.prepare(snapshot, xray_recipe(), zones=zones) == prepared
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    elsewhere = Zones.under(tmp_path / "elsewhere")
    assert build(elsewhere)[1] == prepared
    assert prepare.prepare(snapshot, xray_recipe(28), zones=zones).cohort != prepared.cohort


def test_the_same_collection_gives_the_same_bytes_in_another_workspace(zones, tmp_path):
    elsewhere = Zones.under(tmp_path / "elsewhere")
    folders = [layout.folder(build(where)[1].cohort, zones=where) for where in (zones, elsewhere)]
    contents = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert contents[0] == contents[1]
    assert not [path for folder in folders for path in folder.parent.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("structures", [(), STRUCTURES])
def test_a_full_disk_is_told_before_images_are_written_to_a_file_and_not_by_a_signal(zones, monkeypatch, structures):
    """What is mapped and has no room ends the process (SIGBUS) when it is written to: room is asked for first."""
    pixels, labels = radiographs(60)
    rows = xray_rows(pixels, labels)
    if structures:
        rows, pixels = outlined(rows, pixels, lung_and_heart(pixels))
    snapshot, recipe = commit(rows, pixels, zones), xray_recipe(structures=structures)
    room = iter([None] * bool(structures))

    def full(descriptor, start, length):
        if next(room, "none") == "none":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            prepare.prepare(snapshot, recipe, zones=zones)
    assert [path.name for path in (zones.pseudonymised / "cohorts").iterdir()] == [".locks"]
    assert prepare.prepare(snapshot, recipe, zones=zones).images == 60


def test_images_that_are_being_prepared_have_no_name_that_a_killed_process_could_leave(zones, monkeypatch):
    seen = []
    home = zones.pseudonymised / "cohorts"
    monkeypatch.setattr(prepare, "write", lambda *_, **__: seen.extend(path.name for path in home.iterdir()))
    pixels, labels = radiographs(20)
    prepare.prepare(commit(xray_rows(pixels, labels), pixels, zones), xray_recipe(), zones=zones)
    assert seen == [".locks"]


def test_an_image_is_its_radiograph_resampled_and_windowed(zones):
    pixels, labels = radiographs(60)
    _, _, cohort = build(zones, recipe=xray_recipe(28, intensity_percentiles=(0.0, 100.0)))
    by_key = {handle("in", i): i for i in range(60)}
    assert cohort.attrs["intensity_range"] == [0, 65535]
    for image, row in zip(cohort.images, cohort.table.itertuples(), strict=True):
        original = pixels[by_key[row.instance_key]].astype(float)
        low, high = original.min(), original.max()
        np.testing.assert_allclose(image / 65535 * (high - low) + low, original, atol=0.01)
        assert (row.window_low, row.window_high) == (low, high)
        assert row.instance_key == handle("in", by_key[row.instance_key])
    classes = [cohort.classes[index] for index in cohort.class_index]
    assert classes == [("normal", "pneumonia")[labels[by_key[key]]] for key in cohort.table["instance_key"]]


def test_a_patient_is_in_one_split_and_stays_there_when_the_archive_grows(zones):
    pixels, labels = radiographs(200)
    rows = xray_rows(pixels, labels)
    rows["patient_key"] = [handle("pt", i // 3) for i in rows["source"]]
    small = read.load(prepare.prepare(commit(rows[:80], pixels, zones), xray_recipe(), zones=zones), zones=zones)
    large = read.load(prepare.prepare(commit(rows[80:], pixels, zones), xray_recipe(), zones=zones), zones=zones)
    assert large.table.groupby("patient_key")["split"].nunique().max() == 1
    before = dict(zip(small.table["patient_key"], small.table["split"], strict=True))
    after = dict(zip(large.table["patient_key"], large.table["split"], strict=True))
    assert before.items() <= after.items()
    assert len(after) > len(before)


def test_the_splits_have_the_shares_that_were_asked_for():
    recipe = xray_recipe()
    splits = [split.split_of(handle("pt", i), recipe) for i in range(20_000)]
    shares = [splits.count(name) / 20_000 for name in split.SPLITS]
    np.testing.assert_allclose(shares, [0.76, 0.12, 0.12], atol=0.01)


def test_of_exact_copies_under_two_patients_the_one_in_train_stays(zones):
    recipe = xray_recipe()
    holdout = next(i for i in range(60) if split.split_of(handle("pt", i), recipe) != "train")
    train = next(i for i in range(60) if split.split_of(handle("pt", i), recipe) == "train")

    def copy(rows, pixels):
        pixels = pixels.copy()
        pixels[holdout] = pixels[train]
        digest = sha256_hex(pixels[train].tobytes())
        rows["pixel_sha256"] = [
            digest if i == holdout else old for i, old in zip(rows["source"], rows["pixel_sha256"], strict=True)
        ]
        return rows, pixels

    _, prepared, cohort = build(zones, change=copy)
    assert (prepared.images, prepared.duplicates_dropped) == (59, 1)
    assert handle("pt", train) in set(cohort.table["patient_key"])
    assert handle("pt", holdout) not in set(cohort.table["patient_key"])


def test_physical_units_survive_where_every_image_shares_a_window(zones):
    recipe = xray_recipe(28, intensity_window=(-10.0, 300.0))

    def hounsfield(rows, pixels):
        return rows.assign(units="HU", rescale_slope=2.0, rescale_intercept=-100.0), pixels

    _, _, cohort = build(zones, recipe=recipe, change=hounsfield)
    pixels, _ = radiographs(60)
    by_key = {handle("in", i): pixels[i] * 2.0 - 100 for i in range(60)}
    assert cohort.attrs["units"] == "HU"
    for image, key in zip(cohort.images, cohort.table["instance_key"], strict=True):
        physical = image * cohort.attrs["rescale_slope"] + cohort.attrs["rescale_intercept"]
        np.testing.assert_allclose(physical, np.clip(by_key[key], -10, 300), atol=0.01)


def test_spacing_follows_the_resampling(zones):
    def spaced(rows, pixels):
        return rows.assign(spacing_row_mm=4.0, spacing_column_mm=4.0), pixels

    _, _, cohort = build(zones, recipe=xray_recipe(32), change=spaced)
    assert cohort.attrs["spacing_mm"] == [3.5, 3.5]
    assert set(cohort.table["spacing_mm"]) == {3.5}


def test_rows_without_a_class_other_modalities_and_colour_are_left_out(zones):
    def mixed(rows, pixels):
        rows.loc[:9, "label_finding"] = ""
        rows.loc[10:19, "modality"] = "CT"
        rows.loc[20:29, "photometric"] = "RGB"
        return rows, pixels

    assert build(zones, change=mixed)[1].images == 30


def test_of_a_volume_the_middle_slices_are_taken_along_its_normal(zones):
    order = np.random.default_rng(0).permutation(20)

    def volumes(rows, pixels):
        first, second = rows.index[:20], rows.index[20:27]
        for indices, z in ((first, order * 3.0), (second, np.arange(7.0))):
            for name in ("patient_key", "study_key", "series_key"):
                rows.loc[indices, name] = rows.loc[indices[0], name]
            rows.loc[indices, "slice_position_mm"] = z
        return rows, pixels

    recipe = xray_recipe(slices_per_series=3, central_fraction=0.5)
    snapshot, _, cohort = build(zones, recipe=recipe, change=volumes)
    sizes = cohort.table.groupby("series_key").size()
    assert sorted(sizes.tolist(), reverse=True)[:3] == [3, 3, 1]
    table = collection.table(snapshot, zones=zones).merge(cohort.table[["instance_key"]])
    longest = table[table["series_key"].map(table.groupby("series_key")["slice_position_mm"].max() > 7).to_numpy(bool)]
    assert longest["slice_position_mm"].tolist() == [21.0, 30.0, 36.0]


@pytest.mark.parametrize("changes", [{"modalities": ("MG",)}, {"class_attribute": "grade"}, {"covariates": ("shoe",)}])
def test_a_recipe_that_cannot_be_met_is_said_so_and_leaves_nothing(zones, changes):
    with pytest.raises(InvalidRequest):
        build(zones, recipe=xray_recipe(**changes))
    assert list(zones.pseudonymised.glob("cohorts/*co-*")) == []


def test_a_flipped_pixel_or_row_is_refused_on_loading(zones):
    _, prepared, _ = build(zones)
    folder = layout.folder(prepared.cohort, zones=zones)
    array = zarr.open_array(folder / layout.IMAGES / "images", mode="r+", zarr_format=3)
    value = int(array[0, 0, 0])
    array[0, 0, 0] = value ^ 1
    with pytest.raises(IntegrityError):
        read.load(prepared, zones=zones)
    array[0, 0, 0] = value
    read.load(prepared, zones=zones)
    table = folder / layout.TABLE
    import pandas as pd

    frame = pd.read_parquet(table)
    frame.loc[0, "split"] = "holdout-1" if frame.loc[0, "split"] == "train" else "train"
    frame.to_parquet(table)
    with pytest.raises(IntegrityError):
        read.load(prepared, zones=zones)


@pytest.mark.parametrize("name", ["co-../../x", "co-", "mo-0123456789abcdef0", "x"])
def test_a_handle_that_is_none_builds_no_path(zones, name):
    with pytest.raises(InvalidRequest):
        read.load(name, zones=zones)


def test_the_real_sample_gives_a_cohort_without_its_28_copies(zones):
    prepared = prepared_cohort(zones)
    assert (prepared.images, prepared.duplicates_dropped) == (5002, 28)
    assert min(prepared.patients.values()) > 550
