from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medgan import keys
from medgan.archive import phantom, quarantine, scratch
from medgan.deid import audit, batch, review
from medgan.deid.cli import app
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable, UnusableArchive
from medgan.records import QuarantineReason, QuarantineRecord
from medgan.settings import Zones
from tests.unit.deid.builders import REAL

RUN = CliRunner()


@pytest.fixture
def key(tmp_path):
    keys.create(tmp_path / "keys" / "pseudonym.key")
    return f"file:{tmp_path / 'keys' / 'pseudonym.key'}"


@pytest.fixture
def source(tmp_path):
    """Two patients in folders that carry their names, one broken file among them."""
    folder = tmp_path / "Doe^Jane 1970-01-01"
    folder.mkdir()
    for patient in (1, 2):
        for number, data in enumerate(phantom.phantom_study(patient=patient, instances=2)):
            (folder / f"{phantom.needles_of(patient)[0].replace('/', '')}-{number}.dcm").write_bytes(data)
    return folder


def written(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_becomes_files_named_by_pseudonyms_only(source, key, tmp_path):
    out = tmp_path / "out"
    said = RUN.invoke(app, ["deid", str(source), str(out), "--key", key])
    assert said.exit_code == 0, said.output
    files = written(out)
    assert len([path for path in files if path.suffix == ".dcm"]) == 4
    everything = b"".join(files.values()) + "\n".join(map(str, files)).encode() + said.output.encode()
    for patient in (1, 2):
        for needle in phantom.needles_of(patient):
            assert needle.encode() not in everything
    assert b"Doe^Jane" not in everything


def test_two_workers_write_the_same_bytes_and_a_second_run_nothing_new(source, key, tmp_path):
    first = batch.deidentify_tree(source, tmp_path / "one", key_handle=key)
    second = batch.deidentify_tree(source, tmp_path / "two", key_handle=key, workers=2)
    assert first == second
    assert written(tmp_path / "one") == written(tmp_path / "two")
    again = batch.deidentify_tree(source, tmp_path / "one", key_handle=key)
    assert (again.written, again.known) == (0, 4)


def test_refused_files_are_counted_and_the_exit_status_says_so(source, key, tmp_path):
    (source / "notes.txt").write_text("Jane Doe called")
    (source / "broken.dcm").write_bytes((REAL / "test_files" / "MR_truncated.dcm").read_bytes())
    conflicting = phantom.phantom_study(patient=1, rows=8, columns=8)[0]  # the UIDs of another file, other pixels
    (source / "zz-conflict.dcm").write_bytes(conflicting)
    said = RUN.invoke(app, ["deid", str(source), str(tmp_path / "out"), "--key", key])
    assert said.exit_code == 3
    for reason in ("NOT_DICOM", "TRUNCATED", "CONFLICT"):
        assert f"quarantined {reason}" in said.output
    records = list((tmp_path / "out" / "quarantine").glob("*.json"))
    assert len(records) == 3
    assert QuarantineRecord.model_validate_json(records[0].read_bytes()).stage == "deid"


def test_unusable_input_writes_nothing(key, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnusableArchive):
        batch.deidentify_tree(tmp_path / "empty", tmp_path / "out", key_handle=key)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_in_our_words_and_leaves_no_torn_log(key, tmp_path):
    """Files of at most 1,000 bytes stand for the disk: each record fits, the log of all of them does not."""
    source, destination = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(20):
        (source / f"DOE^JANE {number}.dcm").write_bytes(bytes(128) + b"DICM" + f"DOE^JANE {number}".encode())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(StoreUnavailable) as refused:
            batch.deidentify_tree(source, destination, key_handle=key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) not in str(refused.value)
    assert list((destination / "audit").iterdir()) == []
    assert sum(batch.deidentify_tree(source, destination, key_handle=key).quarantined.values()) == 20


def test_what_a_killed_run_unpacked_is_removed_by_the_next(source, key, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, busy = (Path(tempfile.mkdtemp(prefix=scratch.PREFIX)) for _ in range(2))
    for folder in (left, busy):
        (folder / scratch.MARK).touch()
        (folder / "DOE^JANE").write_text("DOE^JANE")
    descriptor = os.open(busy, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        batch.deidentify_tree(source, tmp_path / "out", key_handle=key)
    finally:
        os.close(descriptor)
    assert list(tmp_path.glob(f"{scratch.PREFIX}*")) == [busy]


def test_a_file_is_locked_where_folders_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flock = fcntl.flock

    def as_nfs_does(descriptor, operation):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs_does)
    with scratch.own_folder() as first:
        (first / "unpacked").write_text("DOE^JANE")
        with scratch.own_folder() as second:
            assert first.exists()
            assert set(tmp_path.iterdir()) == {first, second}
    assert list(tmp_path.iterdir()) == []


def test_two_runs_never_write_to_one_destination_at_once(source, key, tmp_path):
    destination = tmp_path / "out"
    refused = []

    def second(done: int, total: int) -> None:
        if done < total:
            with pytest.raises(Conflict) as said:
                batch.deidentify_tree(source, destination, key_handle=key)
            refused.append(str(said.value))

    assert batch.deidentify_tree(source, destination, key_handle=key, on_progress=second).written == 4
    assert len(refused) == 3
    assert batch.deidentify_tree(source, destination, key_handle=key).known == 4


def test_output_never_lies_inside_the_source(source, key):
    with pytest.raises(InvalidRequest):
        batch.deidentify_tree(source, source / "out", key_handle=key)


def test_the_audit_notices_every_change(source, key, tmp_path):
    out = tmp_path / "out"
    batch.deidentify_tree(source, out, key_handle=key)
    batch.deidentify_tree(source, out, key_handle=key)
    assert audit.verify(out / "audit")[1:] == (2, 8)
    assert RUN.invoke(app, ["audit", "verify", str(out)]).exit_code == 0
    log = out / "audit" / "0001.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    swapped = [lines[1], lines[0], *lines[2:]]
    for changed in (whole.replace(b'"K":', b'"Q":', 1), b"".join(lines[:-1]), b"".join(lines[1:]), b"".join(swapped)):
        log.write_bytes(changed)
        with pytest.raises(IntegrityError):
            audit.verify(out / "audit")
    log.write_bytes(whole)
    (out / "audit" / "0002.jsonl").rename(out / "audit" / "0003.jsonl")
    with pytest.raises(IntegrityError):
        audit.verify(out / "audit")


def test_where_there_is_no_log_or_no_workspace_nothing_is_called_whole_or_empty(tmp_path):
    for words in (["audit", "verify", str(tmp_path)], ["quarantine", "list", "--workspace", str(tmp_path / "typo")]):
        assert isinstance(RUN.invoke(app, words).exception, InvalidRequest)


def test_a_log_of_more_than_9999_runs_holds_together(tmp_path):
    head = audit.START
    for number in range(1, 10_002):
        line = audit.chain(head, {"closed": True, "instances": 0})
        (tmp_path / f"{number:04d}.jsonl").write_bytes(audit.canonical_json(line) + b"\n")
        head = line["digest"]
    assert audit.verify(tmp_path) == (head, 10_001, 0)
    audit.append(tmp_path, {"n": 1})
    assert audit.verify(tmp_path)[1:] == (10_002, 1)
    assert [line["n"] for line in audit.entries(tmp_path)] == [1]


def test_decisions_taken_at_once_are_all_written_down(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: audit.append(tmp_path / "log", {"n": number}), range(24)))
    assert sorted(line["n"] for line in audit.entries(tmp_path / "log")) == list(range(24))
    assert audit.verify(tmp_path / "log")[1:] == (24, 24)


def test_the_audit_notices_a_changed_file(source, key, tmp_path):
    out = tmp_path / "out"
    batch.deidentify_tree(source, out, key_handle=key)
    victim = next(out.glob("pt-*/st-*/se-*/in-*.dcm"))
    victim.write_bytes(victim.read_bytes()[:-2] + b"!!")
    with pytest.raises(IntegrityError):
        batch.check_files(out)


def test_decisions_about_quarantined_files_are_chained(tmp_path):
    zones = Zones.under(tmp_path)
    digests = {reason: hashlib.sha256(reason.encode()).hexdigest() for reason in ("BURNED_IN", "TRUNCATED")}
    for reason, digest in digests.items():
        quarantine.record(zones, QuarantineRecord(sha256=digest, reason=QuarantineReason(reason), stage="ingest"))
    where = ["--workspace", str(tmp_path)]
    listed = RUN.invoke(app, ["quarantine", "list", *where])
    assert all(digest[:16] in listed.output for digest in digests.values())
    short = digests["BURNED_IN"][:10]
    assert RUN.invoke(app, ["quarantine", "release", short, *where, "--reviewer", "R1"]).exit_code == 0
    assert review.is_released(zones, digests["BURNED_IN"])
    assert RUN.invoke(app, ["quarantine", "reject", short, *where, "--reviewer", "R2"]).exit_code == 0
    assert not review.is_released(zones, digests["BURNED_IN"])
    assert "reject" in RUN.invoke(app, ["quarantine", "show", short, *where]).output
    with pytest.raises(InvalidRequest):
        review.decide(zones, digests["TRUNCATED"], review.RELEASE, reviewer="R1")


def test_a_release_counts_for_the_reason_that_was_looked_at(tmp_path):
    zones, digest = Zones.under(tmp_path), "a" * 64

    def refuse(reason: QuarantineReason) -> str:
        quarantine.record(zones, QuarantineRecord(sha256=digest, reason=reason, stage="ingest"))
        return review.pending(zones)[0][1]

    refuse(QuarantineReason.BURNED_IN)
    review.decide(zones, digest, review.RELEASE, reviewer="R1")
    assert refuse(QuarantineReason.BURNED_IN) == review.RELEASE
    assert refuse(QuarantineReason.FACE) == ""
    assert review.releases(zones) == {digest: {"BURNED_IN"}}
    review.decide(zones, digest, review.RELEASE, reviewer="R1")
    assert review.releases(zones) == {digest: {"BURNED_IN", "FACE"}}
    review.decide(zones, digest, review.REJECT, reviewer="R2")
    assert not review.releases(zones)[digest]


def test_explain_prints_sorted_sentences():
    said = RUN.invoke(app, ["deid", "explain", "--profile", "basic+modified-dates"])
    sentences = said.output.splitlines()
    assert sentences[:-1] == sorted(sentences[:-1])
    assert any("keyed number of days" in sentence for sentence in sentences)
    assert sentences[-1].startswith("Every other attribute")


def test_the_documentation_shows_what_explain_says():
    page = (Path(__file__).parents[3] / "docs" / "deidentification.md").read_text()
    said = RUN.invoke(app, ["deid", "explain"]).output.splitlines()
    assert [line[2:] for line in page.splitlines() if line.startswith("- ")] == said
