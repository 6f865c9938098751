"""The demo archive is real where it matters: many scripts, planted everywhere, all of it listed, the same each time."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medgan.archive import instance, people, phantom, pixels, sources
from medgan.archive.phantom import Planted
from medgan.errors import UnusableArchive
from medgan.settings import Zones
from tests.unit.archive.builders import RADIOGRAPHS, scan_path

PATIENTS = 66


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("demo")
    return phantom.build_demo_archive(folder, radiographs=RADIOGRAPHS, patients=PATIENTS, vendor_files=False)


def _members(planted: Planted) -> dict[str, bytes]:
    with zipfile.ZipFile(planted.archive) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_patient_has_a_name_an_id_and_a_telephone_of_their_own() -> None:
    everyone = [people.person(number) for number in range(5030)]
    for attribute in ("name", "patient_id", "other_id", "telephone", "address", "mother", "study_time", "folder"):
        assert len({getattr(one, attribute) for one in everyone}) == len(everyone), attribute
    assert len({one.script.character_set for one in everyone}) == len(people.SCRIPTS) == 11
    assert {one.age for one in everyone} == set(range(1, 18))


@pytest.mark.parametrize("number", range(11))
def test_names_survive_their_character_set(number: int) -> None:
    someone = people.person(number)
    dataset = instance.parse(phantom.phantom_study(patient=number)[0])
    assert str(dataset.PatientName).rstrip("=") == someone.name
    assert dataset.StudyDescription == f"Chest of {someone.spoken}"
    assert str(dataset[0x0011, 0x1002].value[0][0x0011, 0x1003].value).rstrip("=") == someone.name


def test_the_archive_is_the_same_each_time_and_another_with_another_seed(planted: Planted, tmp_path: Path) -> None:
    again = phantom.build_demo_archive(tmp_path / "a", radiographs=RADIOGRAPHS, patients=PATIENTS, vendor_files=False)
    other = phantom.build_demo_archive(
        tmp_path / "b", radiographs=RADIOGRAPHS, patients=PATIENTS, vendor_files=False, seed=8
    )
    assert again.archive.read_bytes() == planted.archive.read_bytes()
    assert again.needles == planted.needles
    assert not set(other.needles) & {people.person(number).name for number in range(PATIENTS)}


def test_pixels_are_the_public_images_and_labels_are_theirs(planted: Planted) -> None:
    with np.load(RADIOGRAPHS) as stored:
        public = {
            (image.tobytes(), phantom.FINDINGS[label])
            for split in ("train", "val", "test")
            for image, label in zip(stored[f"{split}_images"], stored[f"{split}_labels"].ravel(), strict=True)
        }
    members = _members(planted)
    table = {row["PatientID"]: row for row in csv.DictReader(io.StringIO(members.pop("labels.csv").decode()))}
    assert len(table) == len(members) == PATIENTS
    for number, content in enumerate(members.values()):
        dataset = instance.parse(content)
        someone = people.person(number)
        decoded = pixels.decode(dataset)
        assert decoded.frames.dtype == np.uint8
        row = table[dataset.PatientID]
        assert (decoded.frames[0].tobytes(), row["finding"]) in public
        assert (row["sex"], row["age"]) == (dataset.PatientSex, str(int(dataset.PatientAge[:3])))
        assert dataset.IssuerOfPatientID == someone.issuer
    assert {row["finding"] for row in table.values()} == set(phantom.FINDINGS)


def test_every_needle_is_really_there(planted: Planted) -> None:
    """A sweep for what was never planted would prove nothing."""
    members = _members(planted)
    everything = b"\0".join(members.values())
    names = "\0".join(members)
    codecs = {script.codec for script in people.SCRIPTS}
    for needle in planted.needles:
        spellings = {script.encode(needle) for script in people.SCRIPTS if _encodes(script.codec, needle)}
        spellings |= {needle.encode(codec) for codec in codecs if _encodes(codec, needle)}
        assert needle in names or any(spelling in everything for spelling in spellings), needle
    assert all(date.encode() in everything for date in planted.dates)
    assert all(len(needle) >= 6 for needle in planted.needles)
    assert set(phantom.needles_of(3)) <= set(planted.needles)


def _encodes(codec: str, text: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def test_the_scan_joins_labels_to_patients_by_issuer(planted: Planted, zones: Zones) -> None:
    sources.preflight(planted.archive)
    report, found = scan_path(planted.archive, zones)
    assert (report.instances, report.patients, report.studies, report.label_rows) == (PATIENTS,) * 4
    assert report.rejected == {}
    issuers = {row["PatientID"]: row["IssuerOfPatientID"] for row in found.labels}
    everyone = [people.person(number) for number in range(PATIENTS)]
    assert issuers == {one.patient_id: one.issuer for one in everyone}


def test_vendor_files_come_along(tmp_path: Path) -> None:
    built = phantom.build_demo_archive(tmp_path, radiographs=RADIOGRAPHS, patients=2)
    with zipfile.ZipFile(built.archive) as archive:
        names = archive.namelist()
    assert built.vendor_files == sum(name.startswith("vendors/") for name in names) > 150
    assert any(name.endswith("CT_small.dcm") for name in names)
    assert any(name.endswith("DICOMDIR") for name in names)


def test_all_radiographs_become_patients(tmp_path: Path) -> None:
    built = phantom.build_demo_archive(tmp_path, radiographs=RADIOGRAPHS, vendor_files=False)
    assert built.instances == built.patients == 5030


def test_a_study_is_a_volume_and_burned_in_text_is_not_announced() -> None:
    files = phantom.phantom_study(modality="MR", instances=3, rows=32, columns=32)
    positions = [float(instance.parse(one).ImagePositionPatient[2]) for one in files]
    assert positions == [0.0, 2.5, 5.0]
    burned = instance.parse(phantom.phantom_study(rows=32, columns=32, burned_in=True)[0])
    plain = instance.parse(phantom.phantom_study(rows=32, columns=32)[0])
    assert "BurnedInAnnotation" not in burned
    assert pixels.decode(burned).frames[0, :4].max() > pixels.decode(plain).frames[0, :4].max()
    with pytest.raises(ValueError, match="CT"):
        phantom.phantom_study(modality="XX")


def test_a_missing_file_of_radiographs_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnusableArchive, match="pneumoniamnist"):
        phantom.build_demo_archive(tmp_path, radiographs=tmp_path / "none.npz")
    assert not list(tmp_path.iterdir())
