"""A segmentation and a structure set become labels of the images that they refer to, and nothing else of them does."""

from __future__ import annotations

import io

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medgan.archive import intake, phantom, references
from medgan.collection import read
from medgan.deid import structures
from tests.unit.archive.builders import KEYRING, scan_path, write_files
from tests.unit.deid.builders import write

STUDY = phantom.phantom_study(patient=1, instances=3)
UIDS = [str(pydicom.dcmread(io.BytesIO(one)).SOPInstanceUID) for one in STUDY]


def items(*each: dict[str, object]) -> Sequence:
    made = []
    for values in each:
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        made.append(item)
    return Sequence(made)


def about(sop_class: str, modality: str, **values: object) -> bytes:
    """Another object of the same patient and study."""
    made = pydicom.dcmread(io.BytesIO(STUDY[0]))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{UIDS[0]}.9"
    made.SeriesInstanceUID, made.Modality = f"{made.SeriesInstanceUID}.9", modality
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def structure_set(**values: object) -> bytes:
    made = about(
        references.STRUCTURE_SET, "RTSTRUCT",
        StructureSetROISequence=items(
            {"ROINumber": 1, "ROIName": "Lung_L"}, {"ROINumber": 2, "ROIName": "GTV Quackenbush"}
        ),
        ROIContourSequence=items(
            {"ReferencedROINumber": 1, "ContourSequence": items(*(outline(uid) for uid in UIDS[:2]))},
            {"ReferencedROINumber": 2, "ContourSequence": items(outline(UIDS[1]), outline("1.2.3.4"))},
        ),
        **values,
    )  # fmt: skip
    for keyword in (
        "PixelData",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PhotometricInterpretation",
    ):
        delattr(made, keyword)
    return write(made)


def outline(uid: str) -> dict[str, object]:
    return {"ContourImageSequence": items({"ReferencedSOPInstanceUID": uid}), "ContourData": [0, 0, 0]}


def segmentation(**values: object) -> bytes:
    liver = items({"CodeValue": "10200004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Mr Smith's"})
    segments = items({"SegmentNumber": 1, "SegmentLabel": "Smith", "SegmentedPropertyTypeCodeSequence": liver})
    made = about(
        references.SEGMENTATION, "SEG", BitsAllocated=1, BitsStored=1, HighBit=0, PixelRepresentation=0,
        SegmentSequence=segments, **({"PixelData": bytes(32)} | values),
    )  # fmt: skip
    made["PixelData"].VR = "OB"
    return write(made)


def labelled(run, tmp_path, *others: bytes):
    files = {f"{number}.dcm": one for number, one in enumerate([*STUDY, *others])}
    return run(write_files(tmp_path / "archive", files))


def test_an_image_is_labelled_with_what_is_outlined_on_it_and_no_name_comes_along(run, zones, tmp_path):
    report = labelled(run, tmp_path, structure_set())
    table = read.table(report.snapshot, zones=zones).sort_values("instance_number")
    assert table["label_structures"].tolist() == ["lung l", "gtv + lung l", ""]
    assert (report.stored, report.quarantined, report.outlined) == (3, {}, 2)
    again = labelled(run, tmp_path, structure_set())
    assert (again.snapshot, again.outlined) == (report.snapshot, 2)


def test_a_structure_set_that_comes_later_labels_what_is_there(run, zones, tmp_path):
    first = labelled(run, tmp_path)
    second = labelled(run, tmp_path, structure_set())
    assert (second.stored, second.known, second.outlined) == (0, 3, 2)
    assert second.snapshot.snapshot_id != first.snapshot.snapshot_id


@pytest.mark.parametrize(
    ("values", "outlined"),
    [
        (
            {
                "PerFrameFunctionalGroupsSequence": items(
                    {
                        "SegmentIdentificationSequence": items({"ReferencedSegmentNumber": 1}),
                        "DerivationImageSequence": items(
                            {"SourceImageSequence": items({"ReferencedSOPInstanceUID": UIDS[2]})}
                        ),
                    }
                )
            },
            ["", "", "liver structure"],
        ),
        (
            {
                "ReferencedSeriesSequence": items(
                    {"ReferencedInstanceSequence": items(*({"ReferencedSOPInstanceUID": uid} for uid in UIDS[:2]))}
                )
            },
            ["liver structure", "liver structure", ""],
        ),
    ],
)
def test_a_segment_has_the_meaning_of_its_public_code_on_the_images_it_was_drawn_on(
    values, outlined, run, zones, tmp_path
):
    report = labelled(run, tmp_path, segmentation(**values))
    table = read.table(report.snapshot, zones=zones).sort_values("instance_number")
    images = table[table["modality"] == "CT"]
    assert images["label_structures"].tolist() == outlined
    assert report.quarantined == {}


def test_the_sealed_index_knows_no_word_of_the_patients_name(tmp_path, zones):
    patient = pydicom.dcmread(io.BytesIO(STUDY[0]))
    name, known_as = patient.PatientName.family_name, patient.PatientID
    roi = items({"ROINumber": 1, "ROIName": f"tumour of {name}"}, {"ROINumber": 2, "ROIName": f"x{known_as.lower()}"})
    made = pydicom.dcmread(io.BytesIO(structure_set()))
    made.StructureSetROISequence = roi
    _, found = scan_path(write_files(tmp_path / "a", {"0.dcm": write(made)}), zones)
    assert isinstance(found, intake.Intake)
    assert {mark.structure.strip() for mark in found.marks} == {"tumour of", "x"}
    assert KEYRING.handle("in", "instance", UIDS[0]) in {mark.image for mark in found.marks}


def test_a_structure_set_without_a_patient_or_with_damage_is_refused(run, tmp_path):
    nobody = pydicom.dcmread(io.BytesIO(structure_set()))
    nobody.PatientID = ""
    report = labelled(run, tmp_path, write(nobody), structure_set()[:-40])
    assert report.quarantined == {"NO_PATIENT": 1, "TRUNCATED": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Lung_L", "lung l"),
        ("DOE^JANE", "unnamed"),
        ("", "unnamed"),
        ("GTV 1-2 12345678", "gtv 1-2"),
        ("肝", "unnamed"),
        ("GTV_JD lung_lt", "gtv lung lt"),
    ],
)
def test_only_technical_words_of_a_name_stay(text, said):
    assert structures.name(text) == said


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("Smith", "10200004", "liver structure"),
        ("Liver", "85756007", "liver"),
        ("bone", "91723000", "bone"),
        ("Smith", "85756007", "tissue"),
        ("Lung, left", "39607008", "left lung structure"),
        ("right or left", "39607008", "lung structure"),
        ("right Smith", "44714003", "structure of upper lobe of left lung"),
    ],
)
def test_a_code_names_a_structure_unless_it_is_of_any_and_words_say_its_side(text, code, said):
    assert structures.name(text, "SCT", code) == said


@pytest.mark.parametrize(("side", "said"), [("7771000", "left"), ("24028007", "right"), ("51440002", "")])
def test_the_side_of_a_segment_is_told_by_the_modifier_of_its_code(side, said):
    modifier = items({"CodeValue": side, "CodingSchemeDesignator": "SCT", "CodeMeaning": "a side"})
    lung = items({"CodeValue": "39607008", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lung"})
    lung[0].SegmentedPropertyTypeModifierCodeSequence = modifier
    segments = items({"SegmentNumber": 1, "SegmentLabel": "1", "SegmentedPropertyTypeCodeSequence": lung})
    made = pydicom.dcmread(io.BytesIO(segmentation(PerFrameFunctionalGroupsSequence=derived((UIDS[0], None, 1)))))
    made.SegmentSequence = segments
    (found,) = references.masks(write(made), KEYRING)
    assert structures.name(found.structure, found.scheme, found.code) == f"{said} lung structure".strip()


def derived(*frames: tuple[str, int | None, int]) -> Sequence:
    """Per-frame groups of (image, its frame or None, segment)."""
    return items(
        *(
            {
                "SegmentIdentificationSequence": items({"ReferencedSegmentNumber": segment}),
                "DerivationImageSequence": items(
                    {
                        "SourceImageSequence": items(
                            {"ReferencedSOPInstanceUID": uid}
                            | ({} if number is None else {"ReferencedFrameNumber": number})
                        )
                    }
                ),
            }
            for uid, number, segment in frames
        )
    )


def test_each_frame_of_a_segmentation_says_which_image_it_is_a_mask_of(run, zones, tmp_path):
    frames = derived((UIDS[2], None, 1), (UIDS[0], 1, 1), (UIDS[1], None, 9))
    made = segmentation(NumberOfFrames=3, PixelData=bytes(3 * 32), PerFrameFunctionalGroupsSequence=frames)
    table = read.table(labelled(run, tmp_path, made).snapshot, zones=zones)
    images = table[table["modality"] == "CT"].sort_values("instance_number")["instance_key"].tolist()
    masks = table[table["modality"] == "SEG"].sort_values("frame")
    assert masks["outlines"].tolist() == [images[2], images[0], ""]
    assert masks["structure"].tolist() == ["liver structure", "liver structure", ""]
    assert masks["inside_from"].tolist() == [1, 1, 0]
    assert masks["outlines_frame"].tolist() == [-1, 0, 0]
    assert set(table.loc[table["modality"] == "CT", "outlines"]) == {""}


def test_a_fractional_mask_is_inside_from_its_half_on_and_several_sources_are_none():
    two = items({"ReferencedSOPInstanceUID": UIDS[0]}, {"ReferencedSOPInstanceUID": UIDS[1]})
    frames = derived((UIDS[2], 4, 1), (UIDS[0], None, 1))
    frames[1].DerivationImageSequence[0].SourceImageSequence = two
    made = segmentation(
        SegmentationType="FRACTIONAL", MaximumFractionalValue=200, PerFrameFunctionalGroupsSequence=frames
    )
    first, second = references.masks(made, KEYRING)
    assert (first.image, first.frame, first.inside_from) == (KEYRING.handle("in", "instance", UIDS[2]), 3, 100)
    assert second is None


@pytest.mark.parametrize(("vr", "most"), [("IS", "9" * 30), ("DS", "1e30"), ("UV", 2**64 - 1), ("LO", "20471147")])
def test_a_most_that_no_byte_reaches_stops_no_night_and_stands_in_no_table(run, zones, tmp_path, vr, most):
    made = pydicom.dcmread(io.BytesIO(segmentation(PerFrameFunctionalGroupsSequence=derived((UIDS[2], None, 1)))))
    made.SegmentationType = "FRACTIONAL"
    hostile = Dataset()
    with pydicom.config.disable_value_validation():
        hostile.add_new("MaximumFractionalValue", vr, most)
    made["MaximumFractionalValue"] = hostile["MaximumFractionalValue"]
    table = read.table(labelled(run, tmp_path, write(made)).snapshot, zones=zones)
    assert len(table) >= len(STUDY)
    if "inside_from" in table:
        assert set(table["inside_from"]) <= {0, 128}


def test_a_label_of_a_book_and_many_shared_segments_cost_a_scan_nothing():
    shared = Dataset()
    shared.SegmentIdentificationSequence = items(*[{"ReferencedSegmentNumber": 1}] * 2_000)
    frames = derived(*[(UIDS[2], None, 1)] * 2_000)
    for frame in frames:
        del frame.SegmentIdentificationSequence
    made = pydicom.dcmread(
        io.BytesIO(
            segmentation(PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=Sequence([shared]))
        )
    )
    with pydicom.config.disable_value_validation():
        made.SegmentSequence[0].add_new("SegmentLabel", "UT", "kidney " * 10_000)
    marked = references.marks(write(made), "pt", KEYRING)
    assert [one.structure for one in marked] == [""]
    assert set(references.masks(write(made), KEYRING)) == {None}  # two segments in a frame are none


@pytest.mark.parametrize("number", [0, -3, 471_108_150])
def test_a_number_that_no_frame_has_is_kept_in_no_table(number):
    made = segmentation(PerFrameFunctionalGroupsSequence=derived((UIDS[2], number, 1)))
    (found,) = references.masks(made, KEYRING)
    assert found.frame == -1


def test_what_all_frames_share_is_said_of_each_and_read_once(monkeypatch):
    frames = derived(*[(UIDS[2], None, 1)] * 60)
    (shared,) = derived((UIDS[1], None, 1))
    for frame in frames:
        del frame.DerivationImageSequence
    made = segmentation(
        NumberOfFrames=60,
        PixelData=bytes(60 * 32),
        PerFrameFunctionalGroupsSequence=frames,
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    reads = []
    kept = references._first
    monkeypatch.setattr(references, "_first", lambda numbers: reads.append(numbers) or kept(numbers))
    found = references.masks(made, KEYRING)
    assert {one.image for one in found} == {KEYRING.handle("in", "instance", UIDS[1])}
    assert len(found) == 60
    assert len(reads) == 1


def test_a_table_without_masks_has_no_column_for_them(run, zones, tmp_path):
    table = read.table(labelled(run, tmp_path, structure_set()).snapshot, zones=zones)
    assert not {"outlines", "outlines_frame", "structure", "inside_from"} & set(table.columns)


def test_no_mask_is_joined_where_faces_are_cut_away(run, zones, tmp_path):
    made = segmentation(PerFrameFunctionalGroupsSequence=derived((UIDS[2], None, 1)))
    files = {f"{number}.dcm": one for number, one in enumerate([*STUDY, made])}
    report = run(write_files(tmp_path / "archive", files), profile="basic+clean-recognizable-visual-features")
    table = read.table(report.snapshot, zones=zones)
    assert "SEG" in set(table["modality"])
    assert "outlines" not in table.columns


def test_a_frame_that_names_a_series_and_no_image_is_a_mask_of_that_series(run, zones, tmp_path):
    frames = derived((UIDS[2], None, 1), (UIDS[0], None, 1))
    for frame in frames:
        del frame.DerivationImageSequence
    told = {"NumberOfFrames": 2, "PixelData": bytes(64), "PerFrameFunctionalGroupsSequence": frames}
    told |= {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": None}
    series = {"SeriesInstanceUID": pydicom.dcmread(io.BytesIO(STUDY[0])).SeriesInstanceUID}
    made = segmentation(**told, ReferencedSeriesSequence=items(series))
    table = read.table(labelled(run, tmp_path, made).snapshot, zones=zones)
    images, drawn = (table[table["modality"] == modality].sort_values("frame") for modality in ("CT", "SEG"))
    assert drawn["outlines"].tolist() == [images["series_key"].iloc[0]] * 2
    assert drawn["outlines_frame"].tolist() == [0, 1]
    several = segmentation(**told, ReferencedSeriesSequence=items(series, {"SeriesInstanceUID": "1.2.3"}))
    assert references.masks(several, KEYRING) == [None, None]


def test_the_mask_of_a_head_is_not_stored_beside_images_without_a_face(run, tmp_path):
    made = pydicom.dcmread(io.BytesIO(segmentation(PerFrameFunctionalGroupsSequence=derived((UIDS[2], None, 1)))))
    del made.BodyPartExamined
    files = write_files(tmp_path / "archive", {"0.dcm": write(made)})
    report = run(files, profile="basic+clean-recognizable-visual-features")
    assert (report.stored, report.quarantined) == (0, {"FACE": 1})
