import errno
import fcntl
import multiprocessing
import resource

import numpy as np
import pytest

from medgan.collection import durable, layout, location, read, store, write
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable
from medgan.settings import Zones
from tests.builders.cohort import commit, radiographs, xray_rows


@pytest.fixture(scope="module")
def sample():
    pixels, labels = radiographs(60)
    return pixels, xray_rows(pixels, labels)


def test_a_snapshot_reads_its_own_past_after_the_next_commit(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    first = commit(rows[:20], pixels, zones)
    second = commit(rows[20:], pixels, zones)
    assert (first.instances, second.instances) == (20, 60)
    assert len(read.table(first, zones=zones)) == 20
    table = read.table(second, zones=zones)
    assert len(table) == 60
    for source, frame in zip(rows["source"], read.frames(second, table, zones=zones), strict=True):
        np.testing.assert_array_equal(frame, pixels[source])
    assert store.head("main", zones=zones) == second
    assert [entry.snapshot for entry in store.log("main", zones=zones)] == [second, first]


def test_the_digest_of_a_collection_depends_on_its_content_not_on_its_nights(tmp_path, sample):
    pixels, rows = sample
    at_once = commit(rows, pixels, Zones.under(tmp_path / "a"))
    nights = Zones.under(tmp_path / "b")
    for part in (rows[40:], rows[:10], rows[10:40]):
        last = commit(part, pixels, nights)
    assert last.table_sha256 == at_once.table_sha256
    assert last.snapshot_id != at_once.snapshot_id
    assert commit(rows[:59], pixels, Zones.under(tmp_path / "c")).table_sha256 != at_once.table_sha256


def test_what_is_not_committed_is_not_there(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    first = commit(rows[:20], pixels, zones)
    with store.writer("main", zones=zones) as writer:
        write.append(writer, rows[20:], lambda wanted: (pixels[i] for i in wanted["source"]))
    assert store.head("main", zones=zones) == first
    assert len(read.table(first, zones=zones)) == 20


def test_a_disk_that_refuses_a_chunk_is_told_in_a_sentence_and_the_next_run_writes_it(tmp_path, sample):
    """Icechunk's own words hold the path, and a library's exception has no exit code and is not tried again."""
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    first = commit(rows[:20], pixels, zones)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # the system itself gives no more
        with pytest.raises(StoreUnavailable) as told:
            commit(rows[20:], pixels, zones)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) not in str(told.value)
    assert told.value.__suppress_context__
    assert store.head("main", zones=zones) == first
    assert commit(rows[20:], pixels, zones).instances == 60


def test_a_panic_of_icechunk_is_told_in_a_sentence(tmp_path, sample):
    """Where it cannot make its folder it panics, and that is no `Exception`."""
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    place = layout.repository("main", zones=zones)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"no folder")
    with pytest.raises(StoreUnavailable, match="check the disk"):
        commit(rows[:1], pixels, zones)
    place.unlink()
    assert commit(rows[:1], pixels, zones).instances == 1


def _hold(zones, holding, done):
    with store.writer("main", zones=zones):
        holding.set()
        done.wait(60)


def test_a_second_committer_gets_a_retryable_conflict_and_a_dead_one_holds_nothing(tmp_path):
    zones = Zones.under(tmp_path)
    context = multiprocessing.get_context("spawn")
    holding, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(zones, holding, done))
    other.start()
    assert holding.wait(60)
    with pytest.raises(Conflict) as refusal, store.writer("main", zones=zones):
        pass
    assert refusal.value.retryable
    other.kill()
    other.join()
    other.close()
    with store.writer("main", zones=zones) as writer:
        assert writer.head.instances == 0


def test_a_repository_that_was_killed_while_it_was_created_is_created_again(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    half = layout.repository("main", zones=zones) / "snapshots"
    half.mkdir(parents=True)
    (half / "1CECHNKREP0F1RSTCMT0").write_bytes(b"torn")
    assert commit(rows, pixels, zones).instances == 60


def test_a_collection_that_lost_its_head_is_neither_begun_anew_nor_called_absent(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    before = commit(rows[:20], pixels, zones)
    refs = layout.repository("main", zones=zones) / "refs"
    refs.rename(tmp_path / "refs")
    with pytest.raises(IntegrityError, match="nothing was deleted"), store.writer("main", zones=zones):
        pass
    with pytest.raises(IntegrityError, match="restore its folder"):
        store.head("main", zones=zones)
    (tmp_path / "refs").rename(refs)
    assert len(read.table(store.head("main", zones=zones), zones=zones)) == before.instances


def test_a_disk_that_gives_no_locks_is_told_in_a_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreUnavailable, match="No locks available"), durable.locked(tmp_path / "lock"):
        pass


def test_a_tag_is_never_moved(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    first = commit(rows[:20], pixels, zones)
    second = commit(rows[20:], pixels, zones)
    store.tag(first, "accepted-1", zones=zones)
    with pytest.raises(InvalidRequest):
        store.tag(second, "accepted-1", zones=zones)
    assert [entry.tags for entry in store.log("main", zones=zones)] == [(), ("accepted-1",)]


def test_a_table_that_is_not_the_snapshots_is_refused(tmp_path, sample):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    snapshot = commit(rows, pixels, zones)
    with pytest.raises(IntegrityError):
        read.table(snapshot.model_copy(update={"table_sha256": "0" * 64}), zones=zones)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A"])
def test_a_name_that_would_leave_the_store_is_refused(tmp_path, name):
    with pytest.raises(InvalidRequest):
        store.head(name, zones=Zones.under(tmp_path))


def test_a_collection_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(InvalidRequest, match="no collection"):
        store.head("main", zones=Zones.under(tmp_path))


def test_a_file_system_that_grants_one_lock_twice_is_refused_before_anything_is_written(zones, monkeypatch):
    location.probe_folder.cache_clear()
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    with pytest.raises(InvalidRequest, match="conditional"), store.writer("main", zones=zones):
        pass
    assert not layout.repository("main", zones=zones).exists()
