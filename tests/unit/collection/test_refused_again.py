"""What was refused is refused again without work, until the rules or a reviewer say otherwise."""

from __future__ import annotations

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from medgan.archive import phantom, quarantine
from medgan.collection import judgement
from medgan.records import sha256_hex
from tests.unit.deid.builders import read, write

from .conftest import write_zip


@pytest.fixture
def archive(tmp_path):
    """Three sound instances and one that de-identification refuses: its pixels do not decode."""
    sound = {f"{number}.dcm": one for number, one in enumerate(phantom.phantom_study(patient=1, instances=3))}
    broken = read(phantom.phantom_study(patient=2)[0])
    broken.PixelData = encapsulate([b"no J2K at all"])
    broken["PixelData"].VR, broken["PixelData"].is_undefined_length = "OB", True
    broken.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return write_zip(tmp_path / "in.zip", {**sound, "broken.dcm": write(broken)})


def test_a_refused_frame_is_not_tried_again_and_is_still_counted(run, archive, staged):
    first, second = run(archive), run(archive)
    assert first.quarantined == second.quarantined == {"CORRUPT_PIXELS": 1}
    assert (first.pending, second.pending) == (0, 0)
    assert staged == [4, 0]


def test_another_profile_or_another_version_tries_it_again(run, archive, staged, zones):
    run(archive)
    run(archive, profile="basic+modified-dates")
    (sha256,) = quarantine.recorded(zones)
    refused = quarantine.load(zones, sha256)
    quarantine.record(zones, refused.model_copy(update={"judged_by": sha256_hex(b"by another version")}))
    assert run(archive).quarantined == {"CORRUPT_PIXELS": 1}
    assert staged == [4, 1, 1]


def test_what_a_busy_machine_refused_is_tried_again(run, archive, staged, monkeypatch):
    monkeypatch.setattr(judgement, "PASSING", frozenset({"CORRUPT_PIXELS"}))
    run(archive)
    run(archive)
    assert staged == [4, 1]
