"""What a header says of the body part keeps a restorer from another one; where it says nothing it refuses nobody."""

from __future__ import annotations

import json
import time

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medgan.errors import InvalidRequest
from medgan.restoration import body, learn, run
from tests.unit.restoration.builders import instance, phantoms


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("BRAIN", {"head"}),
        ("C-SPINE", {"spine"}),
        ("CHESTABDPELVIS", {"chest", "abdomen", "pelvis"}),
        ("Head and neck", {"head", "neck"}),
        ("EXTREMITY", {"arm", "leg"}),
        ("HEART", {"chest"}),
        ("RIB SPINE", {"chest", "spine"}),
        ("Structure of arm", {"arm"}),
        ("Arm structure, right", {"arm"}),
        ("STRUCTURE ARM", {"arm"}),
        ("TIBIAFIBULA" * 5, {"leg"}),
        ("WHOLEBODY", set()),
        ("BRAIN W/O", set()),
        ("", set()),
    ],
)
def test_words_of_headers_name_regions_and_unknown_ones_none(word, shown):
    assert body.regions([word]) == shown


def test_a_hostile_header_takes_no_time_to_read():
    begun = time.process_time()
    assert body.regions(["TIBIAFIBULA" * 23 + "Z"]) == frozenset(), "it has 2^23 readings"
    assert body.regions(["HEAD" * 1_000_000]) == frozenset()
    assert time.process_time() - begun < 2


def test_a_broken_coded_region_takes_nothing_from_what_the_body_part_says():
    header = Dataset()
    header.BodyPartExamined = "KNEE"
    header.AnatomicRegionSequence = [Dataset()]
    header["AnatomicRegionSequence"]._value = "no sequence"
    assert body.of_header(header) == {"leg"}
    del header.BodyPartExamined
    assert body.of_header(header) == frozenset()


def test_where_the_body_part_says_nothing_the_coded_region_counts():
    header, region = Dataset(), Dataset()
    region.CodeMeaning = "Thoracic spine"
    header.AnatomicRegionSequence = [region]
    assert body.of_header(header) == {"chest", "spine"}
    header.BodyPartExamined = "HEAD"
    assert body.of_header(header) == {"head"}
    assert body.of_header(Dataset()) == frozenset()


def test_another_body_part_is_refused_in_words_before_its_pixels_are_looked_at(twice, tmp_path):
    folder, image = tmp_path / "in", phantoms(43)[42]
    folder.mkdir()
    parts = ("BRAIN", "", "KNEE", "WHOLEBODY")
    for number, part in enumerate(parts):
        (folder / f"{number}.dcm").write_bytes(instance(image, number=number, BodyPartExamined=part))
    twice.attrs["body"] = ["head"]
    try:
        report = run.restore(folder, tmp_path / "out", twice)
    finally:
        del twice.attrs["body"]
    assert (report.restored, report.quarantined) == (3, {"OTHER_BODY_PART": 1})
    told = json.loads((tmp_path / "out" / run.QUARANTINE).read_text())["told"]
    assert "another body part than the restorer learned from (head)" in told
    assert "knee" not in told.lower()


def test_what_was_learned_from_says_which_body_parts_it_showed(tmp_path):
    for number, part in enumerate(("HEAD", "NECK", "")):
        data = instance(phantoms(43)[number], number=number, BodyPartExamined=part)
        (tmp_path / f"{number}.dcm").write_bytes(data)
    assert learn.from_files(tmp_path, modality="MR")[1]["body"] == ["head", "neck"]
    np.save(tmp_path / "plain.npy", np.stack(phantoms(3)))
    assert learn.from_files(tmp_path / "plain.npy", modality="MR")[1]["body"] == []
    assert learn.from_files(tmp_path / "plain.npy", modality="MR", body_part="KNEE")[1]["body"] == ["leg"]
    with pytest.raises(InvalidRequest, match="no such body part"):
        learn.from_files(tmp_path / "plain.npy", modality="MR", body_part="Jane Doe")


def test_another_modality_is_told_apart_from_unlike_pixels(archive, twice, tmp_path):
    assert pydicom.dcmread(archive / "CT_small.dcm").Modality == "CT"
    report = run.restore(archive, tmp_path / "out", twice)
    assert report.quarantined["OTHER_MODALITY"] == 1
