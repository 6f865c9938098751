"""A registry over the years: keys are replaced, people leave copies in it, disks refuse, and its numbers stay right."""

from __future__ import annotations

import errno
import os
import re
import shutil
from datetime import UTC, datetime

import pytest

import medgan
from medgan.client import pull as pulls
from medgan.client import trust, verify
from medgan.errors import IntegrityError, StoreUnavailable, UnusableKey
from medgan.records import PrivacyReport, QualityReport, sha256_hex
from medgan.release import publish, retract, rotate, sign
from tests.builders import release as build

NOW = datetime(2026, 11, 21, tzinfo=UTC)
NEXT = {"night": 2, "created": "2026-11-21T22:00:00Z"}


def pull(published, key, spec="chest-demo", **options):
    return pulls.pull(spec, registry=str(published.zones.registry), trust=key, now=NOW, **options)


def publish_next(published, start=1500):
    other = build.synthetic_cohort(published.zones, count=200, start=start)
    return publish.publish(other.cleared, build.request(**NEXT), zones=published.zones)


@pytest.fixture
def replaced(published, tmp_path):
    """The public key that signed until now; its pair is moved away."""
    shutil.move(published.zones.signing_key, tmp_path / "old.key")
    return shutil.move(published.key, tmp_path / "old.pub")


def test_a_replaced_signing_key_signs_the_registry_anew_and_clients_pin_it(published, replaced, tmp_path):
    pulled = pull(published, replaced)
    rotate.resign(replaced, zones=published.zones, now=NOW)
    with pytest.raises(IntegrityError):
        pull(published, None)
    with pytest.raises(UnusableKey, match="delete"):
        pull(published, published.key)
    next((tmp_path / "home/trust").glob("*.json")).unlink()
    assert pull(published, published.key) == pulled
    verify.verify_folder(pulled, keys=trust.read_public(published.key), name="chest-demo", version="1.0.0")
    assert publish_next(published).version == "2.0.0"


def test_a_copy_pulled_before_is_verified_with_the_new_key(published, replaced, tmp_path):
    pull(published, replaced)
    rotate.resign(replaced, zones=published.zones)
    next((tmp_path / "home/trust").glob("*.json")).unlink()
    made = medgan.client.report.verify_pulled("chest-demo", registry=str(published.zones.registry), trust=published.key)
    assert made.version == "1.0.0"


def test_a_night_that_was_killed_before_its_key_was_replaced_lists_nothing_of_the_old_key(
    published, replaced, monkeypatch
):
    shutil.copy(replaced.with_name("old.key"), published.zones.signing_key)
    shutil.copy(replaced, published.key)
    with monkeypatch.context() as patched:
        patched.setattr(publish, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish_next(published)
    published.zones.signing_key.unlink()
    published.key.unlink()
    rotate.resign(replaced, zones=published.zones, now=NOW)
    made = publish_next(published)
    assert pulls.pull(
        f"chest-demo@{made.version}", registry=str(published.zones.registry), trust=published.key, now=NOW
    )


def test_signing_anew_that_was_killed_goes_on_and_then_changes_nothing(published, replaced, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(publish, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rotate.resign(replaced, zones=published.zones, now=NOW)
    table = rotate.resign(replaced, zones=published.zones, now=NOW)
    assert rotate.resign(replaced, zones=published.zones) == table
    assert pull(published, published.key).is_dir()


@pytest.mark.parametrize("what", ["torn", "another statement"])
def test_a_damaged_or_exchanged_version_is_named_and_never_signed_and_can_be_withdrawn(published, replaced, what):
    envelope = published.folder / verify.ENVELOPE
    body = envelope.read_bytes()
    if what == "torn":
        (published.folder / verify.MANIFEST).chmod(0o644)
        (published.folder / verify.MANIFEST).write_bytes(b"{}")
    else:
        envelope.chmod(0o644)
        envelope.write_bytes(body.replace(b'"payload":"', b'"payload":"QUFB', 1))
    before = envelope.read_bytes()
    with pytest.raises(IntegrityError, match=r"chest-demo@1\.0\.0"):
        rotate.resign(replaced, zones=published.zones, now=NOW)
    assert envelope.read_bytes() == before
    retract.withdraw("chest-demo@1.0.0", reason="damaged", erase=True, zones=published.zones)
    assert publish_next(published).version


def test_a_registry_of_a_stranger_is_not_signed_anew(published, replaced, tmp_path):
    with pytest.raises(IntegrityError, match="medgan resign"):
        rotate.resign(sign.create_key(tmp_path / "stranger.key"), zones=published.zones)


def test_copies_left_beside_the_versions_stop_no_publication(published):
    shutil.copytree(published.folder, published.folder.with_name("1.0.0.bak"))
    (published.folder.parent / "9.0.0 (copy)").mkdir()
    assert publish_next(published).version == "2.0.0"


def test_files_that_the_disk_does_not_let_go_are_told_and_erased_by_the_next_call(published, monkeypatch):
    real = os.unlink

    def refuse(path, *args, **options):
        if str(path).endswith("labels.parquet"):
            raise OSError(errno.EIO, "no")
        real(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        with pytest.raises(StoreUnavailable):
            retract.withdraw("chest-demo@1.0.0", "a patient withdrew", zones=published.zones, erase=True)
    retract.withdraw("chest-demo@1.0.0", "a patient withdrew", zones=published.zones, erase=True)
    assert not published.folder.exists()


def test_what_a_killed_approval_left_does_not_stop_the_next(published, tmp_path):
    (published.folder / ".manifest.dsse.0123.partial").write_bytes(b"{")
    sign.create_key(tmp_path / "approver.key")
    retract.approve("chest-demo@1.0.0", key=tmp_path / "approver.key", zones=published.zones)
    assert not list(published.folder.glob(".*"))


def test_a_shard_that_can_have_no_more_names_is_copied(published, monkeypatch):
    real = os.link

    def refuse(source, target, **options):
        if published.folder in source.parents:
            raise OSError(errno.EMLINK, "no")
        real(source, target, **options)

    monkeypatch.setattr(os, "link", refuse)
    made = publish.publish(published.built.cleared, build.request(**NEXT, title="Another title"), zones=published.zones)
    assert made.version == "1.0.1"
    assert pull(published, published.key, "chest-demo@1.0.1").is_dir()


def test_a_number_that_is_none_is_left_out_of_the_difference(published):
    other = build.synthetic_cohort(published.zones, count=200, start=1500)
    body = (other.folder / "quality.json").read_bytes().replace(b"14.2", b"NaN")
    (other.folder / "quality.json").write_bytes(body)
    record = QualityReport.model_validate_json((other.folder / "quality-record.json").read_bytes())
    record = record.model_copy(update={"report_sha256": sha256_hex(body)})
    (other.folder / "quality-record.json").write_bytes(record.canonical())
    cleared = other.cleared.model_copy(update={"quality_sha256": record.report_sha256})
    made = publish.publish(cleared, build.request(**NEXT), zones=published.zones)
    difference = (published.folder.with_name(made.version) / "reports/diff-from-1.0.0.json").read_text()
    assert "coverage" in difference
    assert "frechet" in difference  # the old version's number has nothing beside it
    assert "NaN" not in difference


def test_the_page_tells_the_size_that_a_pull_has(published):
    page = (published.folder / "index.html").read_text()
    told = re.search(r"Download</dt><dd>([^<]+)<", page)[1]
    assert told == f"{medgan.open_folder(published.folder).manifest and published.release.bytes / 1e6:.1f} MB"


def test_the_registry_shows_the_numbers_of_the_version_it_names(published):
    publish_next(published)
    retract.withdraw("chest-demo@2.0.0", "labels were swapped", zones=published.zones)
    card = (published.zones.registry / "index.html").read_text().split("<details")[0]
    assert "1,100 images" in card
    assert "200 images" not in card
    assert 'class="chip active"' in card
    assert "withdrawn" not in card.split("<main")[1].split("<ul")[1]


def test_the_datasheet_names_measures_in_words_and_leaves_open_what_was_not_decided(zones):
    built = build.synthetic_cohort(zones, count=40)
    path = built.folder / "privacy-record.json"
    record = PrivacyReport.model_validate_json(path.read_bytes())
    undecided = record.tests[0].model_copy(update={"passed": False, "conclusive": False})
    path.write_bytes(record.model_copy(update={"tests": (undecided, *record.tests[1:])}).canonical())
    publish.publish(built.cleared, build.request(), zones=zones)
    sheet = (zones.registry / "chest-demo/1.0.0/DATASHEET.md").read_text()
    (line,) = [line for line in sheet.splitlines() if undecided.title in line]
    assert line.endswith("| open: not decided with this many patients |")
    assert "Fréchet distance" in sheet
