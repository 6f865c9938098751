import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import icechunk
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from medgan import keys
from medgan.archive import instance, people, phantom, pixels, scan, sources
from medgan.collection import dispatch, ingest, judgement, layout, pace, read, staging, store
from medgan.deid import audit, review
from medgan.deid import cli as deid_cli
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable, UnusableKey
from medgan.records import sha256_hex
from tests.builders.cohort import radiographs
from tests.unit.deid.builders import phantom_with

from .conftest import write_zip


def parts_of(report):
    return report.stored + report.known + sum(report.quarantined.values()) + report.withdrawn + report.pending


def everything_below(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def test_every_received_file_is_accounted_for_once_vendor_files_too(run, demo, zones):
    archive = demo(20).archive
    report = run(archive)
    assert report.received == parts_of(report)
    assert report.pending == 0
    assert report.stored > 50
    assert {"NOT_DICOM", "NO_PIXELS", "TRUNCATED"} <= set(report.quarantined)
    (kept,) = (zones.identified / "intake").glob("*.accounting.json")
    sets = json.loads(kept.read_bytes())
    counted = [digest for group in sets.values() for digest in group]
    assert len(counted) == len(set(counted)) == report.received
    table = read.table(report.snapshot, zones=zones)
    assert set(table["source_sha256"]) == set(sets["stored"])
    for digest, frame in zip(table["pixel_sha256"], read.frames(report.snapshot, table, zones=zones), strict=True):
        assert sha256_hex(frame.tobytes()) == digest


def test_what_lies_in_a_folder_that_cannot_be_listed_tonight_stays_in_the_collection(run, tmp_path, monkeypatch):
    """Instances and labels stay, and are counted; the folder is counted as refused."""
    archive = tmp_path / "archive"
    for patient, folder in ((1, "open"), (2, "closed")):
        (archive / folder).mkdir(parents=True)
        (archive / folder / "one").write_bytes(phantom.phantom_study(patient=patient)[0])
        named = people.person(patient).patient_id
        (archive / folder / "labels.csv").write_text(f"PatientID,finding\n{named},pneumonia\n")
    before = run(archive)
    whole = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError
        return whole(path)

    monkeypatch.setattr(os, "scandir", refusing)
    after = run(archive)
    assert (before.stored, before.labels_joined, after.known) == (2, 2, 1)
    assert (after.labels_joined, after.labels_unmatched) == (2, 0)
    assert after.quarantined == {"UNREADABLE_FOLDER": 1}
    assert after.snapshot == before.snapshot


def test_what_an_older_version_staged_before_it_was_killed_is_not_committed_by_a_newer_one(run, tmp_path, monkeypatch):
    """It may have let out what the newer one removes."""
    planned = []

    def cut_off(plan, *_, **__):
        planned.append({batch.name for batch in plan.batches})
        raise KeyboardInterrupt

    monkeypatch.setattr(dispatch, "stage_all", cut_off)
    archive = tmp_path / "one.dcm"
    archive.write_bytes(phantom.phantom_study()[0])
    for version in ("old", "old", "new"):
        monkeypatch.setattr(judgement, "_CODE", version)
        with pytest.raises(KeyboardInterrupt):
            run(archive)
    assert planned[0] == planned[1]
    assert planned[0].isdisjoint(planned[2])


def test_the_stored_pixels_and_labels_are_those_of_the_archive(run, demo, zones):
    pixels, labels = radiographs()
    report = run(demo(20, vendor_files=False).archive)
    assert report.stored >= 19
    assert report.labels_joined == report.stored
    assert report.labels_joined + report.labels_unmatched == 20
    table = read.table(report.snapshot, zones=zones)
    findings = [("normal", "pneumonia")[label] for label in labels]
    expected = {(sha256_hex(image.tobytes()), finding) for image, finding in zip(pixels, findings, strict=True)}
    found = set(zip(table["pixel_sha256"], table["label_finding"], strict=True))
    assert found <= expected
    assert len(found) == report.stored
    assert set(table["sex"]) <= {"M", "F"}
    assert table["age_years"].between(0, 90).all()


def test_a_rerun_on_the_same_archive_adds_nothing_and_commits_nothing(run, demo, zones):
    archive = demo(12, vendor_files=False).archive
    first = run(archive)
    again = run(archive)
    assert (again.stored, again.known) == (0, first.stored)
    assert again.snapshot == first.snapshot
    assert len(store.log("main", zones=zones)) == 1
    assert not layout.staging("main", zones=zones).exists()


def test_a_collection_takes_nothing_under_a_second_key(run, tmp_path, zones):
    first, second = (
        write_zip(tmp_path / f"{n}.zip", {"1.dcm": phantom.phantom_study(patient=4, study=n)[0]}) for n in (1, 2)
    )
    run(first)
    other = replace(zones, keys=tmp_path / "other", identified=tmp_path / "lost")
    keys.create(other.keys / "pseudonym.key")
    keyring = keys.load(other.pseudonym_key)
    found = scan.scan(sources.register(second, zones=other, keyring=keyring), zones=other, keyring=keyring)
    with pytest.raises(UnusableKey, match="another pseudonym key"):
        ingest.ingest(found, zones=other, key_handle=other.pseudonym_key, collection="main")
    assert run(second).snapshot.patients == 1


def test_a_clock_that_runs_behind_the_last_commit_is_said():
    with pytest.raises(StoreUnavailable, match="clock"), store._explained():
        raise icechunk.IcechunkError("session error: invalid snapshot timestamp ordering. parent: ...")


def test_a_new_instance_extends_its_series_and_the_volume_is_sorted_along_its_normal(run, tmp_path, zones):
    slices = phantom.phantom_study(patient=3, modality="CT", instances=6)
    early = {f"{i}.dcm": slices[i] for i in (5, 0, 2)}
    first = run(write_zip(tmp_path / "early.zip", early))
    second = run(write_zip(tmp_path / "all.zip", {f"{i}.dcm": data for i, data in enumerate(slices)}))
    assert (first.stored, second.stored, second.known) == (3, 3, 3)
    assert (second.snapshot.series, second.snapshot.instances) == (1, 6)
    table = read.table(second.snapshot, zones=zones)
    assert np.all(np.diff(table["slice_position_mm"]) > 0)
    assert set(table["units"]) == {"HU"}


def test_labels_that_come_later_are_joined_to_what_is_there(run, tmp_path, zones):
    (image,) = phantom.phantom_study(patient=3)
    members = {"image.dcm": image}
    first = run(write_zip(tmp_path / "a.zip", members))
    assert "label_finding" not in read.table(first.snapshot, zones=zones)
    patient_id = phantom.people.person(3, seed=7).patient_id
    members["labels.csv"] = f"PatientID,finding\n{patient_id},normal\n".encode()
    second = run(write_zip(tmp_path / "b.zip", members))
    assert (second.stored, second.known, second.labels_joined) == (0, 1, 1)
    assert read.table(second.snapshot, zones=zones)["label_finding"].tolist() == ["normal"]
    assert run(tmp_path / "b.zip").snapshot == second.snapshot


def test_nothing_planted_reaches_the_pseudonymised_zone(run, demo, zones):
    planted = demo(20)
    run(planted.archive)
    written = everything_below(zones.pseudonymised)
    assert len(written) > 100_000
    assert [needle for needle in planted.needles if needle.encode() in written] == []


def test_a_name_let_through_on_purpose_is_found(run, demo, zones, tmp_path):
    planted = demo(2, vendor_files=False)
    run(planted.archive)
    (zones.pseudonymised / "leak").write_bytes(b"..." + planted.needles[-1].encode())
    written = everything_below(zones.pseudonymised)
    assert any(needle.encode() in written for needle in planted.needles)


def test_progress_counts_studies_up_to_all_of_them(run, demo):
    seen = []
    run(demo(12, vendor_files=False).archive, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (12, 12)


def audited(zones):
    """Source digests of the lines that say stored, after the chain was verified."""
    folder = layout.audit("main", zones=zones)
    audit.verify(folder)
    return [line["source_sha256"] for line in audit.entries(folder) if line["outcome"] == "stored"]


def test_every_instance_has_its_line_in_the_chained_audit_and_no_line_an_original_value(run, demo, zones):
    planted = demo(12)
    report = run(planted.archive)
    table = read.table(report.snapshot, zones=zones)
    stored = sorted(set(table["source_sha256"]))
    assert audited(zones) == stored
    folder = layout.audit("main", zones=zones)
    lines = {line["source_sha256"]: line for line in audit.entries(folder)}
    for row in table.to_dict("records"):
        line = lines[row["source_sha256"]]
        assert (line["instance_key"], line["patient_key"]) == (row["instance_key"], row["patient_key"])
        assert line["profile_digest"] == report.profile_digest
        assert line["actions"]["U"] > 0
        assert line["edition"]
        assert line["tool"].startswith("medgan ")
    written = everything_below(folder).decode()
    assert [needle for needle in planted.needles if needle in written] == []


def test_a_commit_that_failed_after_the_audit_leaves_no_second_line_when_it_is_run_again(run, demo, zones, monkeypatch):
    archive = demo(12, vendor_files=False).archive
    folder = layout.audit("main", zones=zones)
    with monkeypatch.context() as failing:
        failing.setattr(ingest, "_commit", refuse)
        with pytest.raises(StoreUnavailable):
            run(archive)
    before = everything_below(folder)
    (folder / ".0002.jsonl.part").write_bytes(before[:100])  # what a kill in the middle of a line leaves
    report = run(archive)
    assert report.stored == len(audited(zones)) == 12
    assert audit.verify(folder)[1] == 1
    run(write_zip(archive.parent / "more.zip", {"new.dcm": phantom.phantom_study(patient=3, modality="CT")[0]}))
    assert audit.verify(folder)[1:] == (2, 13)
    assert [path.name for path in sorted(folder.iterdir())] == ["0001.jsonl", "0002.jsonl"]


def refuse(*_arguments):
    message = "the disk is full"
    raise StoreUnavailable(message)


def test_a_changed_line_of_the_audit_is_found_by_the_command_and_by_the_next_ingest(run, demo, zones):
    archive = demo(2, vendor_files=False).archive
    report = run(archive)
    folder = layout.audit("main", zones=zones)
    assert CliRunner().invoke(deid_cli.app, ["audit", "verify", str(folder)]).exit_code == 0
    log = folder / "0001.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"K":', b'"Q":', 1))
    assert isinstance(CliRunner().invoke(deid_cli.app, ["audit", "verify", str(folder)]).exception, IntegrityError)
    more = write_zip(archive.parent / "more.zip", {"new.dcm": phantom.phantom_study(patient=3, modality="CT")[0]})
    with pytest.raises(IntegrityError):
        run(more)
    assert store.head("main", zones=zones) == report.snapshot


def screen_of_text() -> bytes:
    """A secondary capture that is text from edge to edge: more than a detector may blank."""
    canvas = Image.new("L", (320, 240))
    for row in range(8):
        text = "DOE^JANE 48213377 WARD 7"
        ImageDraw.Draw(canvas).text((4, 2 + 30 * row), text, fill=255, font=ImageFont.load_default(size=24))
    drawn = np.asarray(canvas).astype(np.int16)
    return phantom_with(ImageType=["DERIVED", "SECONDARY"], Rows=240, Columns=320, PixelData=drawn.tobytes())


def test_an_image_refused_for_burned_in_text_leaves_a_sealed_picture_for_the_reviewer(run, tmp_path, zones):
    data = screen_of_text()
    archive = write_zip(tmp_path / "screen.zip", {"screen.dcm": data})
    report = run(archive, profile="basic+clean-pixel-data")
    assert report.quarantined == {"BURNED_IN": 1}
    digest = sha256_hex(data)
    (line,) = audit.entries(layout.audit("main", zones=zones))
    said = (line["source_sha256"], line["outcome"], line["reason"])
    assert said == (digest, "quarantined", "BURNED_IN")
    assert b"PNG" not in everything_below(zones.identified)
    where = ["quarantine", "show", digest[:12], "--workspace", str(zones.keys.parent)]
    inside, outside = zones.identified / "seen.png", tmp_path / "seen.png"
    assert isinstance(CliRunner().invoke(deid_cli.app, [*where, "--picture", str(inside)]).exception, InvalidRequest)
    assert CliRunner().invoke(deid_cli.app, [*where, "--picture", str(outside)]).exit_code == 0
    assert outside.stat().st_mode & 0o777 == 0o600
    with Image.open(outside) as picture:
        first_view = np.asarray(picture)[:240, :, 0]
    assert np.array_equal(first_view, frames_of(data)[0])
    outside.unlink()
    (zones.keys / "pseudonym.key").unlink()
    keys.create(zones.keys / "pseudonym.key")
    assert isinstance(CliRunner().invoke(deid_cli.app, [*where, "--picture", str(outside)]).exception, UnusableKey)
    assert not outside.exists()


def frames_of(data):
    return pixels.decode(instance.parse(data)).frames


def test_a_released_image_is_stored_by_the_next_ingest_and_the_audit_says_both(run, tmp_path, zones):
    data = screen_of_text()
    archive = write_zip(tmp_path / "screen.zip", {"screen.dcm": data})
    run(archive, profile="basic+clean-pixel-data")
    again = run(archive, profile="basic+clean-pixel-data")
    assert again.quarantined == {"BURNED_IN": 1}
    review.decide(zones, sha256_hex(data), review.RELEASE, reviewer="R1")
    assert run(archive, profile="basic+clean-pixel-data").stored == 1
    outcomes = [line["outcome"] for line in audit.entries(layout.audit("main", zones=zones))]
    assert outcomes == ["quarantined", "stored"]


def test_another_ingest_at_the_same_time_is_a_conflict(run, demo, zones):
    archive = demo(2, vendor_files=False).archive
    with store.writer("main", zones=zones), pytest.raises(Conflict):
        run(archive)


KILLED = """
import sys
from pathlib import Path
from medgan import keys
from medgan.archive import scan, sources
from medgan.collection import dispatch, ingest
from medgan.settings import Zones
if __name__ == "__main__":
    dispatch.BATCH_INSTANCES = 5
    zones = Zones.under(sys.argv[1])
    keyring = keys.load(zones.pseudonym_key)
    found = scan.scan(sources.register(Path(sys.argv[2]), zones=zones, keyring=keyring), zones=zones, keyring=keyring)
    report = lambda done, total: print(done, flush=True)
    where = {"collection": "main", "scheduler": sys.argv[3]}
    ingest.ingest(found, zones=zones, key_handle=zones.pseudonym_key, on_progress=report, **where)
"""


def test_a_killed_ingest_resumes_loses_nothing_and_leaves_nothing_behind(run, demo, zones, scheduler, monkeypatch):
    monkeypatch.setattr(dispatch, "BATCH_INSTANCES", 5)
    archive = demo(60, vendor_files=False).archive
    arguments = [sys.executable, "-c", KILLED, str(zones.keys.parent), str(archive), scheduler]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as killed:
        while int(killed.stdout.readline()) < 10:
            pass
        os.kill(killed.pid, signal.SIGKILL)
    wait_until_quiet(layout.staging("main", zones=zones))
    finished = [path for path in layout.staging("main", zones=zones).iterdir() if not path.name.startswith(".")]
    assert finished
    finished_before = {path.name: path.stat().st_mtime_ns for path in finished}
    reused = []
    monkeypatch.setattr(staging, "rows", remembering(reused, staging.rows))
    report = run(archive)
    assert (report.stored + sum(report.quarantined.values()), report.known, report.pending) == (60, 0, 0)
    assert finished_before.items() <= dict(reused).items()
    assert not layout.staging("main", zones=zones).exists()
    assert len(store.log("main", zones=zones)) == 1
    assert {path.name for path in (zones.pseudonymised / "collection").iterdir()} == {
        "main",
        "main.audit",
        ".main.lock",
    }
    assert sorted(audited(zones)) == sorted(read.table(report.snapshot, zones=zones)["source_sha256"])


def remembering(times, rows):
    def remembered(folders):
        times.extend((folder.name, folder.stat().st_mtime_ns) for folder in folders)
        return rows(folders)

    return remembered


def wait_until_quiet(folder):
    """Workers of the killed run's scheduler may still finish what they hold."""
    last = None
    for _ in range(100):
        now = sorted(path.name for path in folder.iterdir())
        if now == last and not any(name.startswith(".") for name in now):
            return
        last = now
        time.sleep(0.2)


RUNS = ("=cmd|' /C calc'!A0", "<script>alert(1)</script>", "\x1b[31m\x07", "@SUM(1)", "{{7*7}}")


@pytest.mark.filterwarnings("ignore:The value length", "ignore:Invalid value for VR")  # planted on purpose
def test_text_that_a_page_a_sheet_or_a_terminal_would_run_is_in_no_column(run, zones, tmp_path):
    keywords = ("Manufacturer", "BodyPartExamined", "ViewPosition", "Modality", "Laterality", "StationName")
    files = {
        f"{number}.dcm": phantom_with(patient=number, SOPInstanceUID=f"1.2.3.{number}", **dict.fromkeys(keywords, text))
        for number, text in enumerate(RUNS)
    }
    rows = [f'{instance.parse(one).PatientID},"{text}"' for one, text in zip(files.values(), RUNS, strict=True)]
    files["labels.csv"] = "\n".join(["PatientID,finding", *rows]).encode()
    report = run(write_zip(tmp_path / "in.zip", files))
    assert (report.stored, report.labels_joined, report.labels_unmatched) == (len(RUNS), 0, 0)  # no value was kept
    table = read.table(report.snapshot, zones=zones)
    texts = "".join(table.select_dtypes("str").to_numpy().ravel())
    assert set("=<>|{}@'!\x1b\x07").isdisjoint(texts)


def test_what_an_ingest_costs_is_told_before_it_begins_and_learned_from_the_last_one(run, zones, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "_LEAST_INSTANCES", 1)
    told, done = [], []
    options = {"on_plan": told.append, "on_progress": lambda *counts: done.append((len(told), *counts))}
    first, second = (phantom.phantom_study(patient=patient, instances=5) for patient in (1, 2))
    run(write_zip(tmp_path / "a.zip", {f"{n}.dcm": one for n, one in enumerate(first)}), **options)
    assert (told[0].instances, told[0].bytes, told[0].batches) == (5, sum(map(len, first)), 1)
    assert [count for count in done if count[1]] == [(1, 1, 1)]  # nothing was done before the plan was told
    (learned,) = json.loads(layout.pace("main", zones=zones).read_bytes()).values()
    for _ in range(2):  # the second time there is nothing to do and nothing to tell
        run(write_zip(tmp_path / "b.zip", {f"{n}.dcm": one for n, one in enumerate(second)}), **options)
    assert len(told) == 2
    assert told[1].expected_seconds == pytest.approx(5 * learned / 2, rel=0.1, abs=0.1)
