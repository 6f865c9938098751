"""Exports hold the stored values unchanged, readable by other people's readers."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pandas as pd
import pydicom
import pytest
import zarr
from PIL import Image

import medgan
from medgan.client import huggingface
from medgan.errors import Conflict, InvalidRequest
from medgan.release import dicom


@pytest.fixture
def dataset(published):
    return medgan.open_folder(published.folder)


def test_png_export_is_lossless_with_its_labels(dataset, published, tmp_path):
    folder = dataset.export(tmp_path / "png")
    rows = list(csv.DictReader((folder / "metadata.csv").read_text().splitlines()))
    assert len(rows) == 1100
    for row in (0, 1, 1099):
        with Image.open(folder / rows[row]["file_name"]) as picture:
            assert np.array_equal(np.asarray(picture), published.built.images[row])
        assert rows[row]["class"] == published.built.labels["class"][row]
    assert json.loads((folder / "README.json").read_bytes())["synthetic"] is True


def test_nifti_export_holds_values_slope_and_spacing(dataset, published, tmp_path):
    folder = dataset.export(tmp_path / "nifti", "nifti")
    body = gzip.decompress((folder / "images.nii.gz").read_bytes())
    assert body[344:348] == b"n+1\0"
    assert np.frombuffer(body, "<i2", 4, 40).tolist() == [3, 28, 28, 1100]
    assert np.frombuffer(body, "<f4", 2, 80).tolist() == [10, 10]
    assert np.frombuffer(body, "<f4", 3, 108).tolist() == [352, 1, 0]
    stored = np.frombuffer(body, "<u2", offset=352).reshape(1100, 28, 28)
    assert np.array_equal(stored, published.built.images)


def test_montage_shows_the_first_images_windowed(dataset, published):
    picture = dataset.montage(rows=2, columns=3)
    assert picture.shape == (56, 84)
    expected = published.built.images[4] / 257
    assert np.abs(picture[28:, 28:56] - expected).max() <= 1


def test_export_refuses_a_used_folder_and_an_unknown_form(dataset, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    with pytest.raises(InvalidRequest, match="not empty"):
        dataset.export(tmp_path / "used")
    with pytest.raises(InvalidRequest, match="png, nifti, huggingface or dicom"):
        dataset.export(tmp_path / "new", "bmp")


def test_huggingface_export_loads_with_datasets_itself(dataset, published, tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(huggingface, "ROWS_A_FILE", 700)
    folder = dataset.export(tmp_path / "hub", "huggingface")
    assert [path.name for path in sorted((folder / "data").iterdir())] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    rows = loaded["train"]
    assert rows.features["label"].names == ["normal", "pneumonia"]
    assert rows.features["image"] == datasets.Image()
    assert [rows.features["label"].names[i] for i in rows["label"]] == published.built.labels["class"].tolist()
    assert list(rows["sex"]) == published.built.labels["sex"].tolist()
    for row in (0, 699, 700, 1099):
        assert np.array_equal(np.asarray(rows[row]["image"]), published.built.images[row])
    card = datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache"))
    assert card.config.name == "default"
    text = (folder / "README.md").read_text()
    assert text.startswith('---\nlicense: "cc-by-4.0"')
    assert published.release.manifest_sha256 in text
    assert "SYNTHETIC" in text


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def few(dataset):
    """A version of 40 images: what an export does with them takes no time."""
    dataset.__dict__ |= {"labels": dataset.labels.iloc[:40].reset_index(drop=True), "rows": dataset.rows[:40]}
    return dataset


@pytest.fixture
def volumes(published, tmp_path):
    """The version's manifest over five volumes of three slices of 4 x 6, of three patients."""
    folder = tmp_path / "volumes"
    folder.mkdir()
    manifest = json.loads((published.folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"images": 5}))
    images = np.random.default_rng(0).integers(0, 65536, (5, 3, 4, 6), dtype=np.uint16)
    group = zarr.create_group(folder / "images.zarr", zarr_format=3)
    attributes = {"intensity_range": [0, 65535], "units": "HU", "spacing_mm": [5.0, 2.0, 0.5]}
    group.create_array("images", data=images, chunks=(1, 3, 4, 6)).update_attributes(attributes)
    table = {"id": range(5), "split": "train", "class": "normal", "sex": "F", "patient": [0, 1, 0, 2, 0]}
    pd.DataFrame(table).to_parquet(folder / "labels.parquet")
    return medgan.open_folder(folder), images


@pytest.mark.parametrize("form", ["png", "dicom", "huggingface"])
def test_an_interrupted_export_goes_on_and_ends_as_one_that_was_not(few, tmp_path, monkeypatch, form):
    monkeypatch.setattr(huggingface, "ROWS_A_FILE", 16)
    monkeypatch.setattr(huggingface, "_ROWS_AT_ONCE", 8)
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        few.export(tmp_path / "out", form, on_progress=stop)
    assert seen[-1] == (24, 40)
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files_of(tmp_path / "out") if "/0" in name}
    with pytest.raises(InvalidRequest, match="not empty"):
        few.export(tmp_path / "out", "nifti")
    few.export(tmp_path / "out", form)
    assert files_of(tmp_path / "out") == files_of(few.export(tmp_path / "calm", form))
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())
    with pytest.raises(InvalidRequest, match="not empty"):
        few.export(tmp_path / "out", form)


def test_two_exports_never_write_into_one_folder_at_once(few, tmp_path):
    def meanwhile(_done, _total):
        with pytest.raises(Conflict, match="another export"):
            few.export(tmp_path / "out")

    few.export(tmp_path / "out", on_progress=meanwhile)
    assert files_of(tmp_path / "out") == files_of(few.export(tmp_path / "calm"))


def test_an_interrupted_export_is_not_gone_on_with_as_another_modality(few, tmp_path):
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dicom.export_dicom(few, tmp_path / "out", modality="CR", on_progress=stop)
    with pytest.raises(InvalidRequest, match="not empty"):
        dicom.export_dicom(few, tmp_path / "out", modality="OT")
    dicom.export_dicom(few, tmp_path / "out", modality="CR")


def test_a_volume_is_a_nifti_file_with_its_slices_in_order_and_an_affine(volumes, tmp_path):
    dataset, images = volumes
    folder = dataset.export(tmp_path / "out", "nifti")
    files = sorted((folder / "images").iterdir())
    assert [file.name for file in files] == [f"{row:07d}.nii.gz" for row in range(5)]
    body = gzip.decompress(files[3].read_bytes())
    assert np.frombuffer(body, "<i2", 4, 40).tolist() == [3, 6, 4, 3]
    assert np.frombuffer(body, "<f4", 3, 80).tolist() == [0.5, 2, 5]
    assert np.frombuffer(body, "<i2", 2, 252).tolist() == [0, 1]
    affine = np.frombuffer(body, "<f4", 12, 280).reshape(3, 4)
    assert affine[:, :3].tolist() == [[-0.5, 0, 0], [0, -2, 0], [0, 0, 5]]
    assert np.array_equal(np.frombuffer(body, "<u2", offset=352).reshape(3, 4, 6), images[3])


@pytest.mark.parametrize("form", ["png", "huggingface"])
def test_flat_formats_refuse_volumes(volumes, tmp_path, form):
    with pytest.raises(InvalidRequest, match="volumes"):
        volumes[0].export(tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_a_volume_is_one_dicom_series_and_a_patient_one_study(volumes, tmp_path):
    dataset, images = volumes
    folder = dataset.export(tmp_path / "out", "dicom")
    read = [[pydicom.dcmread(path) for path in sorted(one.iterdir())] for one in sorted((folder / "images").iterdir())]
    for row, slices in enumerate(read):
        assert np.array_equal(np.stack([one.pixel_array for one in slices]), images[row])
        assert [int(one.InstanceNumber) for one in slices] == [1, 2, 3]
        assert [[float(at) for at in one.ImagePositionPatient] for one in slices] == [[0, 0, 0], [0, 0, 5], [0, 0, 10]]
        assert {float(one.SliceThickness) for one in slices} == {5}
        assert [float(mm) for mm in slices[0].PixelSpacing] == [2, 0.5]
        for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "StudyInstanceUID", "PatientID"):
            assert len({one[keyword].value for one in slices}) == 1
    flat = [one for slices in read for one in slices]
    assert len({one.SOPInstanceUID for one in flat}) == 15
    assert len({one.SeriesInstanceUID for one in flat}) == len({one.FrameOfReferenceUID for one in flat}) == 5
    assert len({one.StudyInstanceUID for one in flat}) == len({one.PatientID for one in flat}) == 3
    assert [(int(slices[0].SeriesNumber), slices[0].PatientID[-1]) for slices in read] == [
        (1, "0"), (1, "1"), (2, "0"), (1, "2"), (3, "0"),
    ]  # fmt: skip
