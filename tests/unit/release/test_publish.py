"""What `publish` promises: reads the evidence again, writes once, shows whole versions only, repeats itself exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr

from medgan.client import disk
from medgan.errors import Conflict, IntegrityError, PrivacyRefused, UnusableKey
from medgan.records import Manifest, Verdict, canonical_json
from medgan.release import croissant, datasheet, evidence, publish, sign, stores
from medgan.release.facts import Facts
from tests.builders import release as build


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_release_opens_with_plain_zarr_and_pandas(published):
    array = zarr.open_group(published.folder / "images.zarr", mode="r")["images"]
    labels = pd.read_parquet(published.folder / "labels.parquet")
    assert np.array_equal(array[:], published.built.images)
    assert array.chunks == (16, 28, 28)
    assert array.shards == (1024, 28, 28)
    assert [codec.to_dict()["name"] for codec in array.compressors] == ["blosc", "crc32c"]
    assert array.attrs["intensity_range"] == [0, 65535]
    assert labels.equals(published.built.labels)


def test_version_has_every_document_of_the_layout(published):
    assert set(tree(published.folder)) == {
        "manifest.json", "manifest.dsse", "croissant.json", "prov.jsonld", "DATASHEET.md", "LICENSE", "TERMS.md",
        "reports/quality.json", "reports/quality.html", "reports/privacy.json", "reports/privacy.html",
        "images.zarr/zarr.json", "images.zarr/images/zarr.json", "images.zarr/images/c/0/0/0",
        "images.zarr/images/c/1/0/0", "labels.parquet", "index.html", "preview/class-0.webp", "preview/class-1.webp",
        "preview/cover.webp", "viewer.js", "zarrita.js",
        "LICENSES-zarrita.txt",
    }  # fmt: skip
    assert {path.name for path in published.zones.registry.iterdir()} == {
        "index.html", "index.json", "index.json.dsse", "status.js", "chest-demo", ".lock",
    }  # fmt: skip


def test_rerun_of_a_night_gives_the_same_bytes_and_writes_nothing(published):
    before = tree(published.zones.registry)
    again = publish.publish(published.built.cleared, build.request(), zones=published.zones)
    assert again == published.release
    assert tree(published.zones.registry) == before


def test_two_workspaces_publish_identical_manifests(published, zones):
    built = build.synthetic_cohort(zones)
    release = publish.publish(built.cleared, build.request(), zones=zones)
    assert release.manifest_sha256 == published.release.manifest_sha256


def test_lost_index_is_completed_from_the_finished_folder(published):
    registry = published.zones.registry
    before = tree(registry)
    for name in ("index.json", "index.json.dsse", "index.html", "status.js"):
        (registry / name).unlink()
    assert publish.publish(published.built.cleared, build.request(), zones=published.zones) == published.release
    assert tree(registry) == before


def test_next_night_publishes_next_version_by_what_changed(published):
    zones = published.zones
    other = build.synthetic_cohort(zones, start=1500)
    replaced = publish.publish(other.cleared, build.request(night=2, created="2026-11-21T22:00:00Z"), zones=zones)
    assert replaced.version == "2.0.0"
    grown = build.synthetic_cohort(zones, start=1500, count=1200)
    appended = publish.publish(grown.cleared, build.request(night=3, created="2026-11-22T22:00:00Z"), zones=zones)
    assert appended.version == "2.1.0"
    first, second = (
        zones.registry / "chest-demo" / number / "images.zarr/images/c/0/0/0" for number in ("2.0.0", "2.1.0")
    )
    assert first.samefile(second)  # the unchanged shard lies on disk once
    found = json.loads((zones.registry / "chest-demo/2.1.0/reports/diff-from-2.0.0.json").read_bytes())
    assert found["shards"] == {"same": 1, "changed": 1, "added": 0, "removed": 0}
    assert found["images"] == [1100, 1200]
    same = publish.publish(grown.cleared, build.request(night=4, created="2026-11-23T22:00:00Z"), zones=zones)
    assert same.version == "2.1.1"
    index = json.loads((zones.registry / "index.json").read_bytes())
    entry = index["datasets"][0]
    assert index["counter"] == 4
    assert entry["channels"] == {"latest": "2.1.1"}
    assert [held["status"] for held in entry["versions"]] == ["superseded"] * 3 + ["active"]
    manifest = Manifest.model_validate_json((zones.registry / "chest-demo/2.1.1/manifest.json").read_bytes())
    assert manifest.previous == "2.1.0"
    assert manifest.previous_manifest_sha256 == appended.manifest_sha256


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.INCONCLUSIVE])
def test_stored_verdict_decides_whatever_the_pointer_says(zones, verdict):
    built = build.synthetic_cohort(zones, verdict=verdict)
    with pytest.raises(PrivacyRefused):
        publish.publish(built.cleared, build.request(), zones=zones)
    assert not zones.published.exists()


@pytest.mark.parametrize("name", ["privacy.json", "privacy-record.json", "privacy.html"])
def test_missing_privacy_evidence_is_refused(zones, name):
    built = build.synthetic_cohort(zones)
    (built.folder / name).unlink()
    with pytest.raises(PrivacyRefused):
        publish.publish(built.cleared, build.request(), zones=zones)
    assert not zones.published.exists()


def test_privacy_report_changed_after_clearing_is_refused(zones):
    built = build.synthetic_cohort(zones)
    (built.folder / "privacy.json").write_bytes((built.folder / "privacy.json").read_bytes() + b" ")
    with pytest.raises(PrivacyRefused):
        publish.publish(built.cleared, build.request(), zones=zones)


def test_pixels_swapped_after_clearing_are_refused(zones):
    built = build.synthetic_cohort(zones)
    images = built.images.copy()
    images[5, 3, 3] ^= 1
    build.write_images(built.folder / "images.zarr", images)
    with pytest.raises(IntegrityError):
        publish.publish(built.cleared, build.request(), zones=zones)
    assert not zones.published.exists()


def test_labels_changed_after_clearing_are_refused(zones):
    built = build.synthetic_cohort(zones)
    built.labels.assign(sex="F").to_parquet(built.folder / "labels.parquet", index=False)
    with pytest.raises(IntegrityError):
        publish.publish(built.cleared, build.request(), zones=zones)


def test_report_about_other_images_is_refused(zones):
    built, other = build.synthetic_cohort(zones), build.synthetic_cohort(zones, start=1500)
    for name in ("quality.json", "quality-record.json"):
        (built.folder / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(IntegrityError):
        publish.publish(built.cleared, build.request(), zones=zones)


def test_forged_pointer_to_another_policy_is_refused(zones):
    built = build.synthetic_cohort(zones)
    forged = built.cleared.model_copy(update={"policy": "internal"})
    with pytest.raises(PrivacyRefused):
        publish.publish(forged, build.request(), zones=zones)


def test_second_publisher_at_once_gets_a_conflict(published):
    other = build.synthetic_cohort(published.zones, start=1500)
    before = tree(published.zones.registry)
    with disk.locked(published.zones.registry / stores.LOCK, busy="held"), pytest.raises(Conflict):
        publish.publish(other.cleared, build.request(night=2), zones=published.zones)
    assert tree(published.zones.registry) == before


def test_index_signed_by_another_key_is_not_continued(published):
    published.zones.signing_key.unlink()
    sign.ensure_key(published.zones)
    with pytest.raises(IntegrityError):
        publish.publish(published.built.cleared, build.request(night=2), zones=published.zones)


def test_signing_key_is_private_and_never_replaced(published):
    key = published.zones.signing_key
    body = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    sign.ensure_key(published.zones)
    assert key.read_bytes() == body
    key.chmod(0o644)
    with pytest.raises(UnusableKey):
        sign.ensure_key(published.zones)


def test_manifest_binds_the_verdict_to_the_pixels(published):
    manifest = Manifest.model_validate_json((published.folder / "manifest.json").read_bytes())
    stored = json.loads((published.built.folder / "privacy-record.json").read_bytes())
    assert manifest.evidence is not None
    assert manifest.evidence.pixel_sha256 == stored["pixel_sha256"]
    assert manifest.evidence.privacy_sha256 == stored["report_sha256"]
    assert manifest.canonical() == canonical_json(json.loads((published.folder / "manifest.json").read_bytes()))
    shards = [file for file in manifest.files if file.pixel_sha256]
    assert [file.path for file in shards] == ["images.zarr/images/c/0/0/0", "images.zarr/images/c/1/0/0"]


def test_datasheet_shows_the_records_numbers(published):
    text = (published.folder / "DATASHEET.md").read_text()
    for words in ("1,100 images", "0.902", "0.915", "**cleared**", "Not tested: attribute inference", "CC-BY-4.0"):
        assert words in text


def test_two_first_publishers_that_do_not_share_a_lock_do_not_overwrite_each_other(tmp_path):
    store = stores.FolderStore(tmp_path)
    store.write_index({stores.ENVELOPE: b"first"}, None)
    with pytest.raises(Conflict):
        store.write_index({stores.ENVELOPE: b"second"}, None)
    assert store.read(stores.ENVELOPE) == stores.Held(body=b"first")
    store.write_index({stores.ENVELOPE: b"second"}, stores.Held(body=b"first"))
    store.write_index({"index.html": b"pages alone"}, None)


def test_a_data_set_whose_patients_have_several_images_says_that_they_are_drawn_apart(zones):
    held = evidence.collect(build.synthetic_cohort(zones, count=40).cleared, zones=zones)
    told = {}
    for name, labels in (("alone", held.labels), ("several", held.labels.assign(patient=0))):
        facts = Facts.gather(replace(held, labels=labels), build.request(), number="1.0.0", previous=None)
        told[name] = [datasheet.render(facts), croissant.render(facts, ()).decode()]
    assert all("drawn independently" in text for text in told["several"])
    assert not any("drawn independently" in text for text in told["alone"])
