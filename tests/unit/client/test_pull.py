"""What the client promises: nothing unsigned, stale, incomplete or foreign is ever believed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import medgan
from medgan.client import pull as pulls
from medgan.client import verify
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable, UnusableKey
from medgan.records import canonical_json, sha256_hex
from medgan.release import index as indexes
from medgan.release import publish, sign, stores
from tests.builders import release as build

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def pull(published, spec="chest-demo", **options):
    return pulls.pull(spec, registry=str(published.zones.registry), now=NOW, **({"trust": published.key} | options))


def resign(published, change):
    """Rewrite the index with the pipeline's own key, as a publisher would, after `change` of its JSON."""
    key = sign.load_key(published.zones.signing_key)
    store = stores.FolderStore(published.zones.registry)
    index, held = indexes.read(store, key)
    changed = type(index).model_validate(change(index.model_dump(mode="json")))
    store.write_index(indexes.files(changed, key), held)


def seal_index(published, change):
    """As `resign`, but of JSON that no publisher's record would take."""
    key = sign.load_key(published.zones.signing_key)
    envelope = published.zones.registry / "index.json.dsse"
    said = json.loads(base64.b64decode(json.loads(envelope.read_bytes())["payload"]))
    change(said)
    envelope.write_bytes(sign.dump(sign.seal("application/vnd.medgan.index+json", canonical_json(said), key)))


def test_pulled_version_holds_the_published_images_and_labels(published):
    folder = pull(published)
    dataset = medgan.open_folder(folder)
    assert np.array_equal(dataset.images, published.built.images)
    assert dataset.labels.equals(published.built.labels)
    assert dataset.classes == ("normal", "pneumonia")
    assert [dataset.classes[index] for index in dataset.class_index[:9]] == list(published.built.labels["class"][:9])
    image, label = dataset.torch()[4]
    assert tuple(image.shape) == (1, 28, 28)
    assert -1 <= float(image.min()) <= float(image.max()) <= 1
    assert label == dataset.class_index[4]


def test_key_is_named_once_and_remembered(published):
    with pytest.raises(UnusableKey, match="--trust"):
        pull(published, trust=None)
    pull(published)
    assert pull(published, trust=None).is_dir()


def test_another_key_than_the_pinned_one_is_refused(published, tmp_path):
    pull(published)
    other = sign.create_key(tmp_path / "other.key")
    with pytest.raises(UnusableKey, match="another public key"):
        pull(published, trust=other)


def test_registry_signed_by_a_stranger_is_refused(published, tmp_path):
    other = sign.create_key(tmp_path / "other.key")
    with pytest.raises(IntegrityError, match="0 of the 1 signatures"):
        pull(published, trust=other)


def test_rolled_back_index_is_refused(published, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(published.zones.registry, old)
    other = build.synthetic_cohort(published.zones, start=1500)
    publish.publish(other.cleared, build.request(night=2), zones=published.zones)
    pull(published)
    shutil.copy(old / "index.json.dsse", published.zones.registry / "index.json.dsse")
    with pytest.raises(IntegrityError, match="rollback"):
        pull(published)


def test_expired_index_is_refused(published):
    late = NOW + timedelta(days=40)
    with pytest.raises(IntegrityError, match="expired"):
        pulls.pull("chest-demo", registry=str(published.zones.registry), trust=published.key, now=late)


def test_unknown_names_and_versions_say_what_there_is(published):
    with pytest.raises(InvalidRequest, match="it has: chest-demo"):
        pull(published, "brain")
    with pytest.raises(InvalidRequest, match=r"it has 1\.0\.0"):
        pull(published, "chest-demo@3")
    with pytest.raises(InvalidRequest, match="NAME@VERSION"):
        pull(published, "../chest-demo")


def test_prefix_and_channel_choose_a_version(published):
    for spec in ("chest-demo@1", "chest-demo@1.0", "chest-demo@1.0.0", "chest-demo@latest"):
        assert pull(published, spec).name == "1.0.0"
    with pytest.raises(InvalidRequest, match="no version in channel stable; channels: latest"):
        pull(published, "chest-demo@stable")


def test_withdrawn_version_is_refused_with_its_reason_unless_asked_for(published):
    def withdraw(index):
        index["datasets"][0]["versions"][0] |= {"status": "withdrawn", "reason": "labels were swapped"}
        return index | {"counter": 2}

    resign(published, withdraw)
    with pytest.raises(IntegrityError, match="labels were swapped"):
        pull(published, "chest-demo@1.0.0")
    assert pull(published, "chest-demo@1.0.0", allow_withdrawn=True).is_dir()


@pytest.mark.parametrize(
    "path", ["labels.parquet", "images.zarr/images/c/0/0/0", "reports/privacy.html", "manifest.json"]
)
def test_tampered_file_in_the_registry_never_becomes_visible(published, tmp_path, path):
    victim = published.folder / path
    body = bytearray(victim.read_bytes())
    body[len(body) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(bytes(body))
    with pytest.raises(IntegrityError):
        pull(published, cache=tmp_path / "cache")
    assert not (tmp_path / "cache/chest-demo/1.0.0").exists()


@pytest.mark.parametrize("harm", ["flip", "extra", "missing", "link"])
def test_damaged_copy_in_the_cache_is_refused(published, harm):
    folder = pull(published)
    labels = folder / "labels.parquet"
    body = labels.read_bytes()
    if harm == "flip":
        labels.write_bytes(body[:40] + bytes([body[40] ^ 4]) + body[41:])
    elif harm == "extra":
        (folder / "images.zarr" / "note.txt").write_text("x")
    elif harm == "missing":
        labels.unlink()
    else:
        labels.unlink()
        (folder.parent / "elsewhere").write_bytes(body)
        labels.symlink_to("../elsewhere")
    with pytest.raises(IntegrityError):
        pull(published)


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        *(([path], "outside the version") for path in ("../evil", "/etc/evil", "a/../../evil", "a//b", ".hidden")),
        *(([path], "outside the version") for path in ("a\\b", "a/./b", "")),
        (["A", "A/b"], "cannot lie in one folder"),
        (["A/b", "a/B"], "cannot lie in one folder"),
        (["manifest.json/x"], "cannot lie in one folder"),
        (["MANIFEST.JSON"], "cannot lie in one folder"),
    ],
    ids=str,
)
def test_path_that_no_version_has_is_refused_even_when_signed(published, paths, told):
    manifest_file = published.folder / "manifest.json"
    manifest = json.loads(manifest_file.read_bytes())
    added = [{"path": path, "size": 1, "sha256": "0" * 64} for path in paths]
    manifest["files"] = sorted([*added, *manifest["files"]], key=lambda file: file["path"])
    body = canonical_json(manifest)
    key = sign.load_key(published.zones.signing_key)
    statement = {
        "_type": verify.STATEMENT,
        "subject": [{"name": "manifest.json", "digest": {"sha256": sha256_hex(body)}}],
        "predicateType": verify.PREDICATE_TYPE,
        "predicate": {},
    }
    envelope = sign.dump(sign.seal("application/vnd.in-toto+json", canonical_json(statement), key))
    pem = sign.public_pem(key).decode()
    with pytest.raises(IntegrityError, match=told):
        verify.read_manifest(body, envelope, keys=(pem,), name="chest-demo", version="1.0.0")


def again(entries, **changes):
    entries.append(entries[0] | changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: again(index["datasets"][0]["versions"], status="withdrawn", reason="copies"),
        lambda index: again(index["datasets"]),
        lambda index: index.update(expires="soon"),
        lambda index: index["datasets"][0]["versions"][0].update(version=f"{'9' * 5000}.0.0"),
    ],
    ids=["a version twice", "a data set twice", "no date", "a number without end"],
)
def test_index_that_cannot_be_understood_is_refused_even_when_signed(published, change):
    seal_index(published, change)
    with pytest.raises(IntegrityError, match="malformed"):
        pull(published)


def test_signature_over_another_kind_of_document_is_refused(published):
    key = sign.load_key(published.zones.signing_key)
    body = base64.b64decode(json.loads((published.zones.registry / "index.json.dsse").read_bytes())["payload"])
    (published.zones.registry / "index.json.dsse").write_bytes(
        sign.dump(sign.seal("application/vnd.in-toto+json", body, key))
    )
    with pytest.raises(IntegrityError, match="something else"):
        pull(published)


def test_version_due_two_signatures_is_refused_with_one_key(published):
    def two(index):
        index["datasets"][0]["versions"][0]["signatures"] = 2
        return index | {"counter": 2}

    resign(published, two)
    with pytest.raises(IntegrityError, match="due 2 signatures"):
        pull(published)


def test_one_of_two_pinned_keys_is_not_enough(published, tmp_path):
    approver = sign.create_key(tmp_path / "approver.key")
    both = tmp_path / "both.pub"
    both.write_bytes(published.key.read_bytes() + approver.read_bytes())
    with pytest.raises(IntegrityError, match="1 of the 2 signatures"):
        pull(published, trust=both)


def test_killed_pull_continues_and_fetches_no_whole_file_twice(published, tmp_path, monkeypatch):
    fetched, whole = [], set()
    original = pulls.registries.FolderSource.blocks

    def counting(self, path, *, offset=0):
        fetched.append((path, offset))
        if path.endswith("labels.parquet") and len(fetched) < 40 and offset == 0:
            yield next(iter(original(self, path)))[:100]
            raise StoreUnavailable("the line went dead")
        yield from original(self, path, offset=offset)
        whole.add(path)  # other threads are told to stop as soon as one fails, so some are not

    monkeypatch.setattr(pulls.registries.FolderSource, "blocks", counting)
    cache = tmp_path / "cache"
    with pytest.raises(StoreUnavailable):
        pull(published, cache=cache)
    assert not (cache / "chest-demo/1.0.0").exists()
    first = {path for path in whole if "images.zarr" in path}
    assert first
    fetched.clear()
    folder = pull(published, cache=cache)
    again = dict(fetched)
    assert not first & {path for path, offset in fetched if offset == 0}
    assert again["chest-demo/1.0.0/labels.parquet"] == 100
    assert medgan.open_folder(folder).labels.equals(published.built.labels)


def test_an_interrupted_pull_waits_for_no_whole_shard_and_goes_on(published, tmp_path, monkeypatch):
    began = threading.Event()
    original = pulls.registries.FolderSource.blocks

    def slowly(self, path, *, offset=0):
        shard = "/c/" in path
        for block in original(self, path, offset=offset):
            step = 1000 if shard else len(block)
            for start in range(0, len(block), step):
                yield block[start : start + step]
                if shard:
                    began.set()
                    time.sleep(0.005)

    def interrupt(*_):
        assert began.wait(30)
        raise KeyboardInterrupt

    with monkeypatch.context() as slow:
        slow.setattr(pulls.registries.FolderSource, "blocks", slowly)
        with pytest.raises(KeyboardInterrupt):
            pull(published, cache=tmp_path / "cache", on_progress=interrupt)
    assert list((tmp_path / "cache").rglob("0.part"))
    assert pull(published, cache=tmp_path / "cache").is_dir()


def test_pulled_version_loads_offline_and_is_verified_again(published):
    folder = pull(published)
    shutil.rmtree(published.zones.registry)
    registry = str(published.zones.registry)
    assert len(medgan.load("chest-demo@1", registry=registry, offline=True)) == 1100
    with pytest.raises(InvalidRequest, match="no version of chest-demo that fits"):
        medgan.load("chest-demo@2", registry=registry, offline=True)
    with pytest.raises(InvalidRequest, match="offline, name a version"):
        medgan.load("chest-demo@latest", registry=registry, offline=True)
    (folder / "labels.parquet").write_bytes(b"x")
    with pytest.raises(IntegrityError):
        medgan.load("chest-demo", registry=registry, offline=True)


def test_missing_registry_is_one_clear_sentence(tmp_path, monkeypatch, published):
    monkeypatch.setenv("MEDGAN_HOME", str(tmp_path / "other-home"))
    with pytest.raises(StoreUnavailable, match="the registry did not give"):
        pulls.pull("chest-demo", registry=str(tmp_path / "nowhere"), trust=published.key)
    with pytest.raises(InvalidRequest, match="no registry is known"):
        pulls.pull("chest-demo")


def test_import_is_light_and_quick():
    code = (
        "import time, sys; start = time.process_time(); import medgan, medgan.client; "
        "assert time.process_time() - start < 0.3; dir(medgan); "
        "assert not {'torch', 'prefect', 'zarr', 'pandas', 'pydicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_resolves():
    for name in medgan.__all__:
        assert getattr(medgan, name) is not None
    with pytest.raises(AttributeError):
        medgan.no_such_name  # noqa: B018 - the access is the test
