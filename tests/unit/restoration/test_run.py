"""An archive goes in and stays as it is; derived instances come out, every other file is counted with its reason."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medgan.archive import scratch
from medgan.collection import durable
from medgan.errors import Conflict, InvalidRequest, UnusableArchive
from medgan.keys import Keyring
from medgan.restoration import learn, run
from tests.unit.deid.dciodvfy import PROGRAM, new_errors
from tests.unit.restoration.builders import instance, phantoms


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def outputs(out, part):
    return [pydicom.dcmread(path) for path in sorted((out / part).rglob("*.dcm"))]


@pytest.fixture
def done(archive, twice, tmp_path):
    before = digests(archive)
    report = run.restore(archive, tmp_path / "out", twice)
    assert digests(archive) == before, "an original was touched"
    return report


def test_every_file_is_restored_or_quarantined_with_its_reason(done):
    assert (done.received, done.restored, done.untouched) == (7, 3, 0)
    assert done.quarantined == {"NOT_DICOM": 1, "NO_PIXELS": 1, "TRUNCATED": 1, "OTHER_MODALITY": 1}
    assert done.inconsistency_worst < 1e-5


def test_outputs_are_derived_instances_that_name_their_source(done, tmp_path):
    restored, doubts = (outputs(tmp_path / "out", part) for part in ("restored", "uncertainty"))
    assert len(restored) == len(doubts) == 3
    sources = {f"1.2.826.0.1.3680043.8.498.77.{n}" for n in (1, 2, 3)}
    for made in (*restored, *doubts):
        assert list(made.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert made.SourceImageSequence[0].ReferencedSOPInstanceUID in sources
        assert made.SOPInstanceUID not in sources
        assert made.SeriesInstanceUID != "1.2.826.0.1.3680043.8.498.77.100"
        assert made.PatientID == "RESTORE-1"
        assert "super-resolution-x2" in made.DerivationDescription
        assert made.ContributingEquipmentSequence[-1].Manufacturer == "medgan"
        assert "neural network" in made.ImageComments
    assert len({made.SeriesInstanceUID for made in restored}) == 1
    assert {made.SeriesInstanceUID for made in restored}.isdisjoint(made.SeriesInstanceUID for made in doubts)
    assert restored[0].ImageType[3] == "RESTORED"
    assert doubts[0].ImageType[3] == "UNCERTAINTY"
    assert "95 %" in doubts[0].DerivationDescription


def test_twice_the_pixels_cover_the_same_patient(done, tmp_path):
    made = outputs(tmp_path / "out", "restored")[0]
    assert (made.Rows, made.Columns) == (80, 80)
    assert list(made.PixelSpacing) == [1.0, 1.0]
    assert list(made.ImagePositionPatient)[:2] == [-40.0, -40.0]
    assert made.pixel_array.shape == (80, 80)


def test_what_a_killed_run_unpacked_is_gone_after_the_next(archive, twice, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = Path(tempfile.mkdtemp(prefix=scratch.PREFIX))
    (left / scratch.MARK).touch()
    (left / "unpacked").write_text("DOE^JANE")
    run.restore(archive, tmp_path / "out", twice)
    assert not list(tmp_path.glob(f"{scratch.PREFIX}*"))


def test_a_second_run_gives_the_same_files(done, archive, twice, tmp_path):
    before = digests(tmp_path / "out")
    run.restore(archive, tmp_path / "out", twice)
    assert digests(tmp_path / "out") == before


def test_no_name_and_no_place_is_written_beside_the_images(done, tmp_path):
    for name in (run.REPORT, run.QUARANTINE, run.PAGE):
        text = re.sub("base64,[A-Za-z0-9+/=]+", "", (tmp_path / "out" / name).read_text())  # pixels spell any word
        assert "Doe" not in text
        assert "good0" not in text
        assert "RESTORE-1" not in text
    assert len(json.loads((tmp_path / "out" / run.REPORT).read_text())["images"]) == 3


@pytest.mark.skipif(
    shutil.which(PROGRAM) is None and "MEDGAN_REQUIRE_TOOLS" not in os.environ, reason="dciodvfy is not installed"
)
def test_dciodvfy_finds_nothing_that_the_source_did_not_have(done, archive, tmp_path):
    source = (archive / "good0.dcm").read_bytes()
    for part in ("restored", "uncertainty"):
        for path in (tmp_path / "out" / part).rglob("*.dcm"):
            assert not new_errors(source, path.read_bytes(), tmp_path)


def test_originals_are_never_where_results_go(archive, twice, tmp_path):
    for place in (archive, archive / "inside"):
        with pytest.raises(InvalidRequest, match="never go where the originals are"):
            run.restore(archive, place, twice)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidRequest, match="something else"):
        run.restore(archive, tmp_path / "mine", twice)
    with pytest.raises(UnusableArchive, match="does not exist"):
        run.restore(tmp_path / "nowhere", tmp_path / "out", twice)


def test_dropped_lines_and_blind_patches_are_found_and_filled_and_nothing_else_changes(painter, tmp_path):
    folder, image = tmp_path / "in", phantoms(43)[41].copy()
    folder.mkdir()
    (folder / "sound.dcm").write_bytes(instance(image, number=1))
    image[20] = -1
    (folder / "defect.dcm").write_bytes(instance(image, number=0))
    report = run.restore(folder, tmp_path / "out", painter)
    assert (report.restored, report.untouched) == (1, 1)
    made = outputs(tmp_path / "out", "restored")[0].pixel_array
    before = pydicom.dcmread(folder / "defect.dcm").pixel_array
    assert (np.delete(made, 20, 0) == np.delete(before, 20, 0)).all()
    assert (made[20] > before[20]).mean() > 0.9
    doubt = outputs(tmp_path / "out", "uncertainty")[0].pixel_array
    assert (np.delete(doubt, 20, 0) == 0).all()
    assert (doubt[20] > 0).all()


def test_an_image_says_how_much_of_its_hole_is_a_guess(painter, tmp_path, monkeypatch):
    folder, hole = tmp_path / "in", np.zeros((40, 40), bool)
    hole[12:25, 12:25] = True  # 13 x 13, 7 px deep
    folder.mkdir()
    (folder / "defect.dcm").write_bytes(instance(phantoms(43)[41]))
    found = {"depth_px": [1, 2], "ssim": [0.95, 0.9], "tissue": [0.9, None], "trusted_px": 2}
    monkeypatch.setattr(painter, "filled", found)
    run.restore(folder, tmp_path / "out", painter, mask_HW=hole)
    told = json.loads((tmp_path / "out" / run.REPORT).read_text())
    assert told["filled"]["trusted_px"] == 2
    assert told["images"][0]["guessed_share"] == pytest.approx(81 / 169)  # all but two rings
    page = (tmp_path / "out" / run.PAGE).read_text()
    assert "1 px 0.95 (0.90 in tissue), 2 px 0.90: what lies deeper than 2 px is a guess" in page
    assert "48 % of its hole is a guess" in page


def test_the_command_counts_and_says_where_to_look(archive, twice, tmp_path):
    from medgan.cli import app

    command = [
        "restore",
        str(archive),
        str(tmp_path / "out"),
        "--task",
        "super-resolution-x2",
        "--model",
        str(twice.folder),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3
    assert "7 files: 3 restored, 0 left alone, 4 quarantined" in result.output
    assert "restored.html" in result.output


def test_a_header_that_makes_a_library_stumble_is_quarantined_and_the_rest_goes_on(archive, twice, tmp_path):
    """A number that is none, a spacing of one value: what parsers find late must not end the run."""
    image = phantoms(43)[42]
    for number, attributes in enumerate(({"PixelSpacing": ["1.0"]}, {"RescaleSlope": "0", "RescaleIntercept": "0"})):
        (archive / f"odd{number}.dcm").write_bytes(instance(image, number=20 + number, **attributes))
    whole = instance(image, number=30)
    at = whole.index(b"IS", whole.index(b"\x20\x00\x11\x00"))  # SeriesNumber
    (archive / "odd9.dcm").write_bytes(whole[: at + 4] + b"x" + whole[at + 5 :])
    report = run.restore(archive, tmp_path / "out", twice)
    assert report.received == 10
    assert report.restored + sum(report.quarantined.values()) == 10
    assert report.restored >= 3
    assert report.quarantined["CORRUPT_HEADER"] >= 1


def test_a_file_that_cannot_be_read_is_never_named_by_its_name(archive, twice, tmp_path):
    """A digest of a name is as good as the name: whoever has a list of patients tries them all."""
    name = "DOE^JANE.dcm"
    (archive / name).symlink_to(archive / "nowhere")

    def named(key: str) -> str:
        out = tmp_path / (key or "none")
        run.restore(archive, out, twice, keyring=Keyring(secret=key.encode() * 32) if key else None)
        lines = map(json.loads, (out / run.QUARANTINE).read_text().splitlines())
        return next(line["sha256"] for line in lines if line["reason"] == "NOT_REGULAR_FILE")

    guesses = {hashlib.sha256(guess.encode()).hexdigest() for guess in (name, f"archive/{name}", str(archive / name))}
    digests = {named(key) for key in ("", "k", "l")}
    assert len(digests) == 3, "the key decides"
    assert digests.isdisjoint(guesses)


def test_without_a_model_the_command_says_what_to_do(archive, tmp_path, monkeypatch):
    from medgan.cli import app

    monkeypatch.delenv("MEDGAN_RESTORERS", raising=False)
    result = CliRunner().invoke(app, ["restore", str(archive), str(tmp_path / "out"), "--task", "denoise"])
    assert isinstance(result.exception, InvalidRequest)
    assert "medgan restorer" in str(result.exception)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY"])
@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_arrays_that_are_cut_short_are_told_so(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest):
        learn.from_files(tmp_path / name, modality="MR")
    with pytest.raises(InvalidRequest):
        run.read_mask((tmp_path / name).rename(tmp_path / "mask.npy"))


def test_a_killed_run_is_finished_by_the_next_one_and_leaves_nothing_behind(archive, twice, tmp_path):
    """An unfinished report is no stranger's file, for which the folder would be refused."""
    out = tmp_path / "out"
    report = run.restore(archive, out, twice)
    whole = digests(out)
    (out / run.REPORT).unlink()
    for left in (out / f".{run.QUARANTINE}.7.partial", next((out / "restored").iterdir()) / ".2.25.1.dcm.7.partial"):
        left.write_bytes(b"half of an image of somebody")
    assert run.restore(archive, out, twice) == report
    assert digests(out) == whole


def test_two_runs_into_one_folder_take_turns(archive, twice, tmp_path):
    out = tmp_path / "out"
    report = run.restore(archive, out, twice)
    with durable.locked(out / run.LOCK), pytest.raises(Conflict, match="another process"):
        run.restore(archive, out, twice)
    assert run.restore(archive, out, twice) == report
