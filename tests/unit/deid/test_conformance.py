from __future__ import annotations

import os
import shutil

import pytest

from medgan.archive import phantom
from medgan.deid import apply, codes, profile
from medgan.errors import BadInstance
from tests.unit.deid.builders import REAL, read, write
from tests.unit.deid.dciodvfy import PROGRAM, new_errors

# One of each kind: images of three modalities, colour, compressed, big-endian, deflated, multi-frame, RT, reports.
FILES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "SC_rgb_rle_2frame.dcm",
    "examples_palette.dcm",
    "examples_ybr_color.dcm",
    "image_dfl.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "rtplan.dcm",
    "rtdose.dcm",
    "reportsi.dcm",
    "test-SR.dcm",
)
PROFILES = ("basic", "basic+modified-dates+patient-characteristics+clean-descriptors")


@pytest.fixture(scope="module")
def dciodvfy():
    if shutil.which(PROGRAM) is None:
        if os.environ.get("MEDGAN_REQUIRE_TOOLS"):
            pytest.fail("dciodvfy is not installed (apt-get install dicom3tools)")
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")


@pytest.mark.usefixtures("dciodvfy")
@pytest.mark.filterwarnings("ignore::UserWarning")  # real files that pydicom complains about
@pytest.mark.parametrize("expression", PROFILES)
@pytest.mark.parametrize("name", FILES)
def test_dciodvfy_finds_no_error_that_the_file_did_not_have(name, expression, keyring, tmp_path):
    data = (REAL / "test_files" / name).read_bytes()
    clean = apply.deidentify(data, profile=profile.load(expression), keyring=keyring)
    assert new_errors(data, clean.data, tmp_path) == {}


@pytest.mark.usefixtures("dciodvfy")
def test_dciodvfy_finds_what_is_missing(basic, keyring, tmp_path):
    data = phantom.phantom_study(modality="CT")[0]
    broken = read(apply.deidentify(data, profile=basic, keyring=keyring).data)
    del broken.Modality
    assert any("Modality" in line for line in new_errors(data, write(broken), tmp_path))


def test_a_local_code_that_an_object_needs_becomes_unknown_and_leaves_nothing(basic, keyring):
    data = (REAL / "test_files" / "reportsi.dcm").read_bytes()
    clean = apply.deidentify(data, profile=basic, keyring=keyring)
    (title,) = clean.dataset.ConceptNameCodeSequence
    assert (title.CodingSchemeDesignator, title.CodeValue, title.CodeMeaning) == codes.UNKNOWN
    assert b"OFFIS_DCMTK" in data
    assert b"OFFIS_DCMTK" not in clean.data


def test_waveforms_are_refused_because_nothing_would_be_left_of_them(basic, keyring):
    data = (REAL / "test_files" / "waveform_ecg.dcm").read_bytes()
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(data, profile=basic, keyring=keyring)
    assert refused.value.reason == "NO_PIXELS"
