"""Exports hold the stored values unchanged, readable by other people's readers."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from PIL import Image

import medgan
from medgan.client import huggingface
from medgan.errors import InvalidRequest


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
