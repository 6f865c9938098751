from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from pydicom import Dataset

from medgan import keys
from medgan.archive import pixels
from medgan.deid import apply, batch, deface, profile, pseudonym
from medgan.errors import BadInstance
from tests.unit.deid import heads
from tests.unit.deid.builders import phantom_with, read, write

STEP_MM = 2


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    heads.need_head()
    return heads.write_series(heads.head(STEP_MM)[0], STEP_MM)


@pytest.fixture(scope="module")
def cuts(files: list[bytes]) -> dict[str, deface.Shear]:
    scout = heads.write_series(heads.head(STEP_MM)[0][:1], STEP_MM, SeriesInstanceUID="1.2.3.4.5.6.7.8")
    return deface.plan([partial(bytes, one) for one in (*files, *scout)])


@pytest.fixture(scope="module")
def cleaning() -> profile.Profile:
    return profile.load("basic+clean-recognizable-visual-features")


def cleaned(files, cuts, cleaning, keyring) -> list[apply.DeidentifiedInstance]:
    by_key = deface.by_key(cuts, partial(pseudonym.series_key, keyring))
    return [apply.deidentify(one, profile=cleaning, keyring=keyring, cuts=by_key) for one in files]


def test_the_face_goes_and_no_voxel_of_the_brain(files, cuts, cleaning, keyring):
    before, brain = heads.head(STEP_MM)
    outputs = cleaned(files, cuts, cleaning, keyring)
    after = np.stack([pixels.decode(one.dataset).frames[0] for one in outputs])
    gone = after != before
    assert not (gone & brain).any()
    assert (after[gone] == 0).all()
    for z, y, x in heads.EYES_MM:
        assert after[round(z / STEP_MM), : round(y / STEP_MM), round(x / STEP_MM)].max() == 0
    front_of_the_face = np.s_[: 40 // STEP_MM, : 20 // STEP_MM]
    assert before[front_of_the_face].max() > 100
    assert after[front_of_the_face].max() == 0
    assert {one.dataset.RecognizableVisualFeatures for one in outputs} == {"NO"}
    assert "113102" in [item.CodeValue for item in outputs[0].dataset.DeidentificationMethodCodeSequence]


def test_a_mask_of_the_head_is_cut_by_the_plane_of_its_images(files, cleaning, keyring):
    body = np.ones_like(heads.head(STEP_MM)[0])
    kind = "1.2.840.10008.5.1.4.1.1.66.4"
    drawn = heads.write_series(body, STEP_MM, SeriesInstanceUID="1.2.3.4.5.6.7.9", SOPClassUID=kind, Modality="SEG")
    cuts = deface.plan([partial(bytes, one) for one in (*files, *drawn)])
    image, mask = (
        np.stack([pixels.decode(one.dataset).frames[0] for one in cleaned(some, cuts, cleaning, keyring)])
        for some in (files, drawn)
    )
    assert set(np.unique(mask)) == {0, 1}
    assert not image[mask == 0].any()


def test_a_scout_is_cut_by_the_plane_of_the_volume_beside_it(cuts, files):
    assert set(cuts) == {"1.2.3.4.5.6.7.8", str(read(files[0]).SeriesInstanceUID)}
    assert len(set(cuts.values())) == 1


def test_a_head_without_a_brain_is_refused_until_somebody_looked(cleaning, keyring):
    one = phantom_with("MR", BodyPartExamined="HEAD")
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(one, profile=cleaning, keyring=keyring)
    assert refused.value.reason == "FACE"
    passed = apply.deidentify(one, profile=cleaning, keyring=keyring, reviewed=True)
    assert np.array_equal(pixels.decode(passed.dataset).frames, pixels.decode(read(one)).frames)


def test_a_volume_that_is_no_head_is_refused_not_cut():
    ball = np.linalg.norm(np.indices((60, 60, 60)) - 30, axis=0)
    for volume in ((ball < 8) * 100.0, np.zeros((60, 60, 60))):
        with pytest.raises(BadInstance) as refused:
            deface.find(volume, np.diag([3.0, 3.0, 3.0, 1.0]), hounsfield=False)
        assert refused.value.reason == "FACE"


@pytest.mark.parametrize(
    ("expected", "values"),
    [
        (True, {"BodyPartExamined": "HEAD"}),
        (True, {}),
        (True, {"BodyPartExamined": "CHEST", "StudyDescription": "CT neck and chest"}),
        (True, {"BodyPartExamined": "SKULL"}),
        (False, {"BodyPartExamined": "CHEST"}),
        (False, {"BodyPartExamined": "LSPINE", "SeriesDescription": "t2 sag"}),
        (False, {"BodyPartExamined": "HEAD", "Modality": "DX"}),
    ],
)
def test_what_may_show_a_face_is_told_by_what_it_says_and_doubt_counts_as_a_head(expected, values):
    dataset = Dataset()
    dataset.Modality, dataset.PixelData = "CT", b"\0\0"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    assert deface.concerns(dataset) is expected


def test_images_of_elsewhere_pass_as_they_are(cleaning, keyring):
    chest = phantom_with("CT", BodyPartExamined="CHEST")
    clean = apply.deidentify(chest, profile=cleaning, keyring=keyring)
    assert np.array_equal(pixels.decode(clean.dataset).frames, pixels.decode(read(chest)).frames)


def test_the_tool_looks_at_a_whole_series_before_it_writes(tmp_path):
    heads.need_head()
    files = heads.write_series(heads.head(4)[0], 4)
    keys.create(tmp_path / "keys" / "pseudonym.key")
    source = tmp_path / "source"
    source.mkdir()
    for number, data in enumerate(files):
        (source / f"{number}.dcm").write_bytes(data)
    report = batch.deidentify_tree(
        source,
        tmp_path / "out",
        profile_name="basic+clean-recognizable-visual-features",
        key_handle=f"file:{tmp_path / 'keys' / 'pseudonym.key'}",
    )
    assert (report.written, report.quarantined) == (len(files), {})
    paths = (tmp_path / "out").glob("pt-*/st-*/se-*/in-*.dcm")
    assert {read(path.read_bytes()).RecognizableVisualFeatures for path in paths} == {"NO"}


def _colour(image, number):
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes([number] * 3 * image.Rows * image.Columns)


def _two_sizes(image, number):
    if number == 3:
        image.Rows = image.Rows // 2
        image.PixelData = image.PixelData[: len(image.PixelData) // 2]


def _no_size(image, _number):
    image.PixelSpacing = [1e-200, 1e-200]


@pytest.mark.parametrize("change", [_colour, _two_sizes, _no_size])
def test_a_series_that_is_no_grey_volume_stops_neither_the_plan_nor_the_night(change, cleaning, keyring):
    files = []
    for number, data in enumerate(heads.write_series(np.zeros((10, 16, 16)), 8)):
        image = read(data)
        change(image, number)
        files.append(write(image))
    assert deface.plan([lambda data=data: data for data in files]) == {}
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(files[0], profile=cleaning, keyring=keyring)
    assert refused.value.reason == "FACE"


def test_who_released_an_image_for_its_text_has_not_released_its_face(cleaning, keyring):
    one = phantom_with("MR", BodyPartExamined="HEAD")
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(one, profile=cleaning, keyring=keyring, reviewed={"BURNED_IN"})
    assert refused.value.reason == "FACE"
    apply.deidentify(one, profile=cleaning, keyring=keyring, reviewed={"BURNED_IN", "FACE"})


def test_a_known_cut_is_made_even_where_somebody_looked(cleaning, keyring):
    one = phantom_with("MR", BodyPartExamined="HEAD")
    key = apply.deidentify(one, profile=cleaning, keyring=keyring, reviewed=True).series_key
    everything = deface.Shear(normal=(0.0, 0.0, 1.0), offset=-1e6, forward=(0.0, 0.0, 1.0), behind=-1e6)
    clean = apply.deidentify(one, profile=cleaning, keyring=keyring, reviewed=True, cuts={key: everything})
    assert np.ptp(pixels.decode(clean.dataset).frames) == 0


@pytest.mark.parametrize("values", [{"Modality": ""}, {"Modality": ["OT", "MR"]}, {"Modality": "OT"}])
def test_a_header_that_does_not_say_mr_is_known_by_its_class(values):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.PixelData = "1.2.840.10008.5.1.4.1.1.4", b"\0\0"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    assert deface.concerns(dataset)
