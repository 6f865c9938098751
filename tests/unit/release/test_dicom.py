"""A version as DICOM: values unchanged, every mark in place, the same bytes twice."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import medgan
from medgan.cli import app
from medgan.errors import InvalidRequest
from medgan.release import dicom, dicom_seg, publish
from tests.builders import release as build
from tests.unit.deid import dciodvfy


@pytest.fixture
def version(published):
    return medgan.open_folder(published.folder)


def source(modality: str, **attrs: object) -> dicom.Source:
    whole = {"intensity_range": [0, 65535], "rescale_slope": 1 / 65535, "rescale_intercept": 0.0, "units": "1"}
    return dicom.Source(
        name="chest-xray",
        version="1.0.0",
        title="Röntgen",
        digest="a" * 64,
        date="20261125",
        modality=modality,
        attrs=whole | attrs,
    )


HU = {"rescale_slope": 4095 / 65535, "rescale_intercept": -1024.0, "units": "HU", "spacing_mm": [1.5, 0.75]}
PICTURE = np.random.default_rng(0).integers(0, 1 << 16, (24, 16), dtype=np.uint16)


def test_every_image_becomes_an_instance_with_its_values_and_labels(version, published, tmp_path):
    folder = version.export(tmp_path / "out", "dicom")
    files = sorted((folder / "images").glob("*.dcm"))
    assert len(files) == 1100
    for row in (0, 1, 1099):
        read = pydicom.dcmread(files[row])
        assert np.array_equal(read.pixel_array, published.built.images[row])
        label = published.built.labels.iloc[row]
        assert read.PatientSex == label["sex"]
        assert label["class"] in read.ImageComments
        assert read.PatientAge == {"0-9": "005Y", "10-19": "015Y", "20-29": "025Y", "30-39": "035Y"}[label["age_band"]]
    assert json.loads((folder / "README.json").read_bytes())["synthetic"] is True
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files[:200]]
    assert len(set(uids)) == 200


def test_exporting_again_gives_the_same_bytes_and_other_versions_other_uids():
    made = [dicom.instance(PICTURE, source("CT", **HU), 7, {"class": "normal"}) for _ in range(2)]
    assert made[0] == made[1]
    other = dicom.instance(PICTURE, dicom.Source(**{**fields(source("CT", **HU)), "digest": "b" * 64}), 7, {})
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert other[keyword].value != made[0][keyword].value


def fields(value: dicom.Source) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@pytest.mark.parametrize("modality", dicom.MODALITIES)
def test_no_reader_can_take_it_for_a_patient(modality):
    made = dicom.instance(PICTURE, source(modality, **HU), 12, {"class": "normal", "sex": "F", "age_band": "70+"})
    assert made.ImageType[3] == "SYNTHETIC"
    assert made.ImageType[0] == "DERIVED"
    for keyword in ("PatientID", "StudyDescription", "SeriesDescription", "ImageComments", "PatientComments"):
        assert made[keyword].value.startswith("SYNTHETIC"), keyword
    assert str(made.PatientName).startswith("SYNTHETIC^")
    assert (made.PatientBirthDate, made.PatientIdentityRemoved) == ("", "YES")
    assert all(element.tag.is_private is False for element in made)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert made[keyword].value.startswith("2.25.")
        assert made[keyword].value.is_valid
    assert (made.PatientSex, made.PatientAge) == ("F", "075Y")


def test_ct_keeps_its_hounsfield_units_and_its_spacing():
    made = dicom.instance(PICTURE, source("CT", **HU), 0, {})
    physical = PICTURE * HU["rescale_slope"] + HU["rescale_intercept"]
    read = made.pixel_array * float(made.RescaleSlope) + float(made.RescaleIntercept)
    assert np.abs(read - physical).max() < 0.01
    assert made.RescaleType == "HU"
    assert list(map(float, made.PixelSpacing)) == [1.5, 0.75]
    low, high = (float(made.WindowCenter) + side * float(made.WindowWidth) / 2 for side in (-1, 1))
    assert (low, high) == pytest.approx((-1024, 3071), abs=1)


@pytest.mark.parametrize(
    ("attrs", "asked", "kind"),
    [
        ({"modality": "DX"}, None, "CR"),
        ({"modality": "CR"}, None, "CR"),
        ({"modality": "MR"}, None, "OT"),  # an MR object has to state a spacing
        ({"modality": "MR", "spacing_mm": [1, 1]}, None, "MR"),
        ({"units": "HU", "spacing_mm": [1, 1]}, None, "CT"),
        ({"modality": "US"}, None, "OT"),
        ({"modality": "CT", "spacing_mm": [1, 1]}, "OT", "OT"),
    ],
)
def test_the_object_follows_what_the_images_say_of_themselves(version, attrs, asked, kind):
    kept = {name: value for name, value in version.attrs.items() if name not in {"spacing_mm", "units", "modality"}}
    version.__dict__["attrs"] = kept | attrs
    assert dicom.source_of(version, asked).modality == kind


def test_what_is_not_written_is_refused(version, tmp_path):
    with pytest.raises(InvalidRequest, match="CT, MR, CR, OT"):
        dicom.export_dicom(version, tmp_path / "out", modality="PT")
    with pytest.raises(InvalidRequest, match="dicom"):
        version.export(tmp_path / "out", "bmp")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InvalidRequest, match="not empty"):
        version.export(tmp_path / "full", "dicom")


def test_the_door_of_the_command_line_writes_dicom(published, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGAN_REGISTRY", str(published.zones.registry))
    arguments = ["export", "chest-demo", str(tmp_path / "out"), "--as", "dicom", "--trust", str(published.key)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "images" / "0000000.dcm").read_bytes()[128:132] == b"DICM"


def test_masks_become_segmentations_of_their_images_with_every_mark(zones, tmp_path):
    built = build.synthetic_cohort(zones, count=6, structures=("lung", "left\\right"))
    made = publish.publish(built.cleared, build.request(), zones=zones)
    version = medgan.open_folder(zones.registry / made.name / made.version)
    first, second = (version.export(tmp_path / name, "dicom") for name in ("first", "second"))
    for row in range(6):
        image, mask = (pydicom.dcmread(first / kind / f"{row:07d}.dcm") for kind in ("images", "masks"))
        assert np.array_equal(mask.pixel_array, built.masks[row] == np.array([1, 2])[:, None, None])
        assert [segment.SegmentLabel for segment in mask.SegmentSequence] == ["lung", "left/right"]
        source = mask.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
        assert (mask.StudyInstanceUID, mask.PatientID) == (image.StudyInstanceUID, image.PatientID)
        assert len({mask.SOPInstanceUID, mask.SeriesInstanceUID, image.SOPInstanceUID, image.SeriesInstanceUID}) == 4
        for keyword in ("PatientID", "StudyDescription", "SeriesDescription", "ContentLabel", "ContentDescription"):
            assert mask[keyword].value.startswith("SYNTHETIC"), keyword
        again = second / "masks" / f"{row:07d}.dcm"
        assert again.read_bytes() == (first / "masks" / f"{row:07d}.dcm").read_bytes()


@pytest.mark.skipif(shutil.which(dciodvfy.PROGRAM) is None and "MEDGAN_REQUIRE_TOOLS" not in os.environ, reason="tool")
def test_a_validator_finds_no_error_in_a_segmentation(tmp_path):
    image = dicom.instance(PICTURE, source("CT", **HU), 3, {"class": "normal", "sex": "F"})
    made = dicom_seg.segmentation(image, (PICTURE % 3).astype(np.uint8), ("a", "b"), dicom._uid)
    path = tmp_path / "one.dcm"
    dicom._filed(made).save_as(path, enforce_file_format=True)
    assert not dciodvfy.errors(path.read_bytes(), tmp_path)
