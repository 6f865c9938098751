"""Publishing to an object store: claims, compare and swap, broken-off uploads, and a probe that tells bad stores.

The store is obstore's own in memory, with real conditional writes; tests/servers does the same over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime

import numpy as np
import pytest

import medgan
from medgan.client import objects as client_objects
from medgan.client import pull as pulls
from medgan.client import trust as trusts
from medgan.client import verify
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable
from medgan.records import Index
from medgan.release import objects, publish, retract, sign
from tests.builders import release as build

obstore = pytest.importorskip("obstore")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
ADDRESS = "s3://bucket/registry"
STRIDE = int(os.environ.get("MEDGAN_FAULT_STRIDE", "9"))
"""Every how many-th write is tried; 1 sweeps them all."""
SECOND = build.request(night=2, created="2026-11-21T22:00:00Z")


@pytest.fixture
def bucket(published, monkeypatch):
    """One empty bucket for publishers and clients; the folder of `published` is not looked at again."""
    store = obstore.store.MemoryStore()
    monkeypatch.setattr(client_objects, "connect", lambda _: store)
    monkeypatch.setenv("MEDGAN_REGISTRY_ROOT", ADDRESS)
    return store


@pytest.fixture
def first(bucket, published):
    """A small first version in the bucket, by the workspace of `published`."""
    built = build.synthetic_cohort(published.zones, count=40)
    return publish.publish(built.cleared, build.request(), zones=published.zones)


def pull(published, spec="chest-demo", **options):
    return pulls.pull(spec, registry=ADDRESS, now=NOW, **({"trust": published.key} | options))


def listed(bucket, pem):
    """Versions that a reader finds, each verified down to the last byte."""
    body = trusts.open_envelope(
        bytes(obstore.get(bucket, "index.json.dsse").bytes()), kind=trusts.INDEX_TYPE, keys=(pem,), what="index"
    )
    entry = Index.model_validate_json(body).datasets[0]
    for held in entry.versions:
        where = f"{entry.name}/{held.version}"
        read = lambda path, at=where: bytes(obstore.get(bucket, f"{at}/{path}").bytes())  # noqa: E731
        manifest = verify.read_manifest(
            read("manifest.json"), read("manifest.dsse"), keys=(pem,), name=entry.name, version=held.version
        )
        for file in manifest.files:
            assert verify.sha256_hex(read(file.path)) == file.sha256
    return [held.version for held in entry.versions]


def test_version_in_a_bucket_is_the_one_in_a_folder(first, published, bucket, tmp_path):
    folder = pull(published)
    assert medgan.open_folder(folder).images.shape == (40, 28, 28)
    zones = published.zones.under(tmp_path / "beside")
    zones.keys.mkdir(parents=True)
    for name in ("pipeline.key", "pipeline.pub"):
        (zones.keys / name).write_bytes((published.zones.keys / name).read_bytes())
        (zones.keys / name).chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MEDGAN_REGISTRY_ROOT")
        beside = publish.publish(build.synthetic_cohort(zones, count=40).cleared, build.request(), zones=zones)
    assert beside == first
    kinds = obstore.get(bucket, "chest-demo/1.0.0/index.html").attributes
    assert kinds["Content-Type"] == "text/html"
    assert obstore.get(bucket, "index.html").attributes["Cache-Control"] == "no-cache"


def test_next_version_continues_from_the_bucket_alone(first, published, bucket):
    grown = build.synthetic_cohort(published.zones, count=60)
    release = publish.publish(grown.cleared, SECOND, zones=published.zones)
    assert release.version == "1.1.0"
    assert listed(bucket, published.key.read_text()) == ["1.0.0", "1.1.0"]
    found = json.loads(bytes(obstore.get(bucket, "chest-demo/1.1.0/reports/diff-from-1.0.0.json").bytes()))
    assert found["images"] == [40, 60]
    assert publish.publish(grown.cleared, SECOND, zones=published.zones) == release


def test_withdrawn_approved_and_renewed_in_a_bucket(first, published, bucket, tmp_path):
    sign.create_key(tmp_path / "approver.key")
    approved = retract.approve("chest-demo@1.0.0", key=tmp_path / "approver.key", zones=published.zones, now=NOW)
    assert approved.signatures == 2
    both = tmp_path / "both.pub"
    both.write_bytes(published.key.read_bytes() + (tmp_path / "approver.pub").read_bytes())
    assert pull(published, trust=both).is_dir()
    table = retract.renew(zones=published.zones, now=NOW)
    assert (table.counter, table.expires) == (3, "2026-12-21T00:00:00Z")
    retract.withdraw("chest-demo@1.0.0", "labels were swapped", zones=published.zones, erase=True, now=NOW)
    with pytest.raises(IntegrityError, match="labels were swapped"):
        pull(published, "chest-demo@1.0.0", trust=both)
    assert [item["path"] for page in obstore.list(bucket, prefix="chest-demo/") for item in page] == []


def test_flipped_byte_in_a_bucket_is_refused(first, published, bucket, tmp_path):
    path = "chest-demo/1.0.0/images.zarr/images/c/0/0/0"
    body = bytearray(obstore.get(bucket, path).bytes())
    body[77] ^= 1
    obstore.put(bucket, path, bytes(body))
    with pytest.raises(IntegrityError):
        pull(published, cache=tmp_path / "cache")


class Racing(objects.ObjectStore):
    """A publisher that is overtaken by another one just before it does `at`."""

    overtake = staticmethod(lambda: None)
    at = ""

    def place(self, *about):
        if self.at == "claim":
            self.overtake()
        super().place(*about)

    def write_index(self, *about):
        if self.at == "index":
            self.overtake()
        super().write_index(*about)


@pytest.mark.parametrize("at", ["claim", "index"])
def test_of_two_publishers_at_once_one_wins_and_the_other_gets_a_conflict(first, published, bucket, monkeypatch, at):
    mine = build.synthetic_cohort(published.zones, start=900, count=30).cleared
    theirs = build.synthetic_cohort(published.zones, start=1500, count=30).cleared
    other = published.zones.under(published.zones.published.parent)
    desk = published.zones.published / "other-desk"
    plain = lambda _: objects.ObjectStore(ADDRESS, desk=desk)  # noqa: E731
    racing = Racing(ADDRESS, desk=published.zones.registry)
    racing.at = at

    def overtake():
        racing.at = ""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish, "open_store", plain)
            name = build.request(night=3, created="2026-11-22T22:00:00Z")
            publish.publish(theirs, name, zones=other)

    racing.overtake = overtake
    monkeypatch.setattr(publish, "open_store", lambda _: racing)
    with pytest.raises(Conflict, match="another publisher"):
        publish.publish(mine, SECOND, zones=published.zones)
    seen = listed(bucket, published.key.read_text())
    assert len(seen) == 2  # the first version and the winner's
    again = publish.publish(mine, SECOND, zones=published.zones)
    assert sorted([*seen, again.version]) == sorted(listed(bucket, published.key.read_text()))


class Dying:
    """An obstore whose n-th write does not happen; the publisher dies of it."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def __getattr__(self, name):
        return getattr(obstore, name)

    def _write(self, name, *about, **more):
        self.count += 1
        if self.count == self.at:
            raise SystemExit(9)
        return getattr(obstore, name)(*about, **more)

    def put(self, *about, **more):
        return self._write("put", *about, **more)

    def copy(self, *about, **more):
        return self._write("copy", *about, **more)


def test_upload_killed_at_any_write_is_never_half_visible_and_finished_by_the_next_run(first, published, monkeypatch):
    second = build.synthetic_cohort(published.zones, start=1500, count=20).cleared
    pem = published.key.read_text()
    monkeypatch.setattr(objects.ObjectStore, "probe", lambda _: None)
    monkeypatch.setattr(objects, "UPLOADS_AT_ONCE", 1)
    start = {
        item["path"]: bytes(obstore.get(client_objects.connect(""), item["path"]).bytes())
        for page in obstore.list(client_objects.connect("")) for item in page
    }  # fmt: skip

    def publish_until(step):
        """What a reader sees after a publication that dies at `step`, how many steps it made, and its bucket."""
        store = obstore.store.MemoryStore()
        for path, body in start.items():
            obstore.put(store, path, body)
        dying = Dying(step)
        monkeypatch.setattr(client_objects, "connect", lambda _: store)
        monkeypatch.setattr(client_objects, "api", lambda: dying)
        with contextlib.suppress(SystemExit):
            publish.publish(second, SECOND, zones=published.zones)
        monkeypatch.setattr(client_objects, "api", lambda: obstore)
        return listed(store, pem), dying.count, store

    seen, total, _ = publish_until(0)
    assert seen == ["1.0.0", "2.0.0"]
    assert total > 25
    outcomes = []
    for step in sorted({*range(1, total + 1, STRIDE), *range(total - 4, total + 1)}):
        seen, _, store = publish_until(step)
        outcomes.append(seen)
        assert publish.publish(second, SECOND, zones=published.zones).version == "2.0.0"
        assert listed(store, pem) == ["1.0.0", "2.0.0"]
        assert b"2.0.0" in bytes(obstore.get(store, "status.js").bytes())
    assert {tuple(seen) for seen in outcomes} == {("1.0.0",), ("1.0.0", "2.0.0")}


def test_no_version_in_a_bucket_is_without_the_receipt_that_an_erasure_looks_up(first, published, monkeypatch):
    second = build.synthetic_cohort(published.zones, start=1500, count=20).cleared
    receipt = published.zones.registry / "chest-demo" / "2.0.0" / "manifest.json"
    receipt.mkdir(parents=True)  # a disk that does not take the file
    with pytest.raises(StoreUnavailable):
        publish.publish(second, SECOND, zones=published.zones)
    receipt.rmdir()
    assert publish.publish(second, SECOND, zones=published.zones).version == "2.0.0"
    assert json.loads(receipt.read_bytes())["version"] == "2.0.0"


def test_pages_that_a_killed_withdrawal_left_behind_are_written_by_the_next(first, published, bucket, monkeypatch):
    dying = Dying(2)  # the envelope is written, the pages are not
    monkeypatch.setattr(objects.ObjectStore, "probe", lambda _: None)
    monkeypatch.setattr(client_objects, "api", lambda: dying)
    with pytest.raises(SystemExit):
        retract.withdraw("chest-demo@1.0.0", "near copies", zones=published.zones, now=NOW)
    monkeypatch.setattr(client_objects, "api", lambda: obstore)
    assert b"near copies" not in bytes(obstore.get(bucket, "status.js").bytes())
    retract.withdraw("chest-demo@1.0.0", "near copies", zones=published.zones, now=NOW)
    for page in ("status.js", "index.html", "index.json"):
        assert b"near copies" in bytes(obstore.get(bucket, page).bytes())


@pytest.mark.parametrize("lost", [False, True])
def test_unchanged_shard_is_copied_within_the_store_and_sent_only_where_it_was_lost(
    first, published, bucket, monkeypatch, lost
):
    shard, done = "images.zarr/images/c/0/0/0", []

    class Watched:
        def __getattr__(self, name):
            def call(store, path, *about, **more):
                if (path if name == "put" else about[0]).endswith(shard):
                    done.append(name)
                return getattr(obstore, name)(store, path, *about, **more)

            return call if name in {"put", "copy"} else getattr(obstore, name)

    if lost:
        obstore.delete(bucket, f"chest-demo/1.0.0/{shard}")
    monkeypatch.setattr(client_objects, "api", Watched)
    same = build.synthetic_cohort(published.zones, count=40)
    assert publish.publish(same.cleared, SECOND, zones=published.zones).version == "1.0.1"
    assert done == (["put"] if lost else ["copy"])
    monkeypatch.setattr(client_objects, "api", lambda: obstore)
    assert np.array_equal(medgan.open_folder(pull(published)).images, same.images)


def test_claim_of_a_dead_publisher_does_not_block_the_number_after_it(first, published, bucket):
    dead = json.loads(bytes(obstore.get(bucket, "chest-demo/1.0.0/manifest.json").bytes()))
    obstore.put(bucket, "chest-demo/2.0.0/manifest.json", json.dumps(dead | {"version": "2.0.0", "night": 7}).encode())
    other = build.synthetic_cohort(published.zones, start=1500, count=30).cleared
    assert publish.publish(other, SECOND, zones=published.zones).version == "3.0.0"
    assert listed(bucket, published.key.read_text()) == ["1.0.0", "3.0.0"]


@pytest.mark.parametrize("lie", ["create", "swap"])
def test_store_without_working_conditional_writes_is_refused_before_anything_is_written(
    bucket, published, monkeypatch, lie
):
    def careless(store, path, body, *, mode=None, **more):
        ignored = mode == "create" if lie == "create" else isinstance(mode, dict)
        return obstore.put(store, path, body, mode="overwrite" if ignored else mode, **more)

    fake = type("Careless", (), {"__getattr__": lambda _, name: getattr(obstore, name), "put": staticmethod(careless)})
    monkeypatch.setattr(client_objects, "api", fake)
    with pytest.raises(InvalidRequest, match="does not honour conditional writes"):
        publish.publish(published.built.cleared, build.request(), zones=published.zones)
    assert [item["path"] for page in obstore.list(bucket) for item in page] == []


def test_answer_that_came_too_late_is_no_conflict(first, published, bucket, monkeypatch):
    """A put that worked, was answered too late, was tried again by the client and then refused because of itself."""

    def twice(store, path, body, *, mode=None, **more):
        done = obstore.put(store, path, body, mode=mode, **more)
        return done if mode is None else obstore.put(store, path, body, mode=mode, **more)

    fake = type("Late", (), {"__getattr__": lambda _, name: getattr(obstore, name), "put": staticmethod(twice)})
    monkeypatch.setattr(objects.ObjectStore, "probe", lambda _: None)
    monkeypatch.setattr(client_objects, "api", fake)
    other = build.synthetic_cohort(published.zones, start=1500, count=30).cleared
    assert publish.publish(other, SECOND, zones=published.zones).version == "2.0.0"


def test_missing_bucket_and_missing_library_are_one_clear_sentence(published, bucket, monkeypatch):
    with pytest.raises(StoreUnavailable, match=r"did not give index\.json\.dsse"):
        pull(published)

    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr(client_objects, "import_module", gone)
    with pytest.raises(InvalidRequest, match=r"medgan\[s3\]"):
        client_objects.api()


def test_images_are_those_that_were_published(first, published):
    dataset = medgan.open_folder(pull(published))
    assert np.array_equal(dataset.images, build.radiographs(40)[0])
