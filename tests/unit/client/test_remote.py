"""Lazy reading: only what is touched travels, nothing unverified is shown, and a server may lie as it likes."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import medgan
from medgan.client import pull as pulls
from medgan.client import registry as registries
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable
from tests.builders import web

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SHARDS = ["/chest-demo/1.0.0/images.zarr/images/c/0/0/0", "/chest-demo/1.0.0/images.zarr/images/c/1/0/0"]


@pytest.fixture
def server(published):
    with web.serving(published.zones.registry) as running:
        yield running


def lazy(published, server, **options):
    return medgan.load("chest-demo", registry=server.address, trust=published.key, lazy=True, now=NOW, **options)


def shards_asked(server):
    return [path for path, _ in server.seen if "/c/" in path]


def test_only_the_shard_that_is_touched_travels_and_only_once(published, server):
    dataset = lazy(published, server)
    assert len(dataset) == 1100
    assert dataset.labels.equals(published.built.labels)
    assert shards_asked(server) == []
    image, label = dataset[1050]
    assert np.array_equal(image, published.built.images[1050])
    assert label == dataset.class_index[1050]
    assert shards_asked(server) == SHARDS[1:]
    assert np.array_equal(dataset.images, published.built.images)
    again = lazy(published, server)
    assert np.array_equal(again.montage(), dataset.montage())
    assert sorted(shards_asked(server)) == SHARDS


def test_loader_and_workers_read_lazily(published, server):
    dataset = lazy(published, server)
    rows = np.concatenate([batch.rows for batch in dataset.loader(threads=2)])
    assert sorted(rows) == list(range(1100))
    assert sorted(shards_asked(server)) == SHARDS
    shutil.rmtree(dataset.folder / "images.zarr/images/c")
    fresh = lazy(published, server).stream(batch=50)
    assert pickle.loads(pickle.dumps(fresh.dataset.reader)).gather([3]).shape == (1, 28, 28)  # noqa: S301 - our own
    batches = torch.utils.data.DataLoader(fresh, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sum(len(images) for images, _ in batches) >= 1000


@pytest.mark.parametrize("path", [*SHARDS, "/labels.parquet", "/images/zarr.json", "/manifest.json", "/manifest.dsse"])
def test_byte_changed_on_the_way_is_refused_and_not_kept(published, server, path):
    def flip(handler, body):
        handler.answer(200, body[:33] + bytes([body[33] ^ 1]) + body[34:])

    server.harm[path] = flip
    with pytest.raises(IntegrityError):
        lazy(published, server).images  # noqa: B018 - the access is the test
    server.harm.clear()
    assert np.array_equal(lazy(published, server).images, published.built.images)


def test_forged_chunk_with_a_right_crc32c_is_refused(published, server, tmp_path):
    """What an attacker on the server can do and a checksum of chunks cannot see: another, well-formed shard."""
    forged = tmp_path / "forged"
    shutil.copytree(published.folder, forged)
    shard = forged / "images.zarr/images/c/0/0/0"
    victim = published.folder / "images.zarr/images/c/0/0/0"
    other = bytearray(shard.read_bytes())
    index = np.frombuffer(bytes(other[-64 * 16 - 4 : -4]), "<u8").reshape(64, 2)
    if index[0, 1] == index[1, 1]:
        pytest.fail("chunks of one length cannot be told apart")
    import google_crc32c

    swapped = index.copy()
    swapped[[0, 1]] = index[[1, 0]]
    tail = swapped.tobytes()
    other[-64 * 16 - 4 :] = tail + int(google_crc32c.value(tail)).to_bytes(4, "little")
    victim.chmod(0o644)
    victim.write_bytes(bytes(other))
    with pytest.raises(IntegrityError):
        lazy(published, server)[0]


def test_pulled_version_is_read_lazily_in_place_and_its_damage_found(published, server):
    folder = pulls.pull("chest-demo", registry=server.address, trust=published.key, now=NOW)
    server.seen.clear()
    dataset = lazy(published, server)
    assert np.array_equal(dataset.images, published.built.images)
    assert shards_asked(server) == []
    assert dataset.folder == folder
    shard = folder / "images.zarr/images/c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="damaged"):
        lazy(published, server)[1050]


def test_pull_takes_over_what_lazy_reading_brought(published, server):
    lazy(published, server)[0]
    pulls.pull("chest-demo", registry=server.address, now=NOW)
    assert sorted(shards_asked(server)) == SHARDS


def test_what_a_killed_lazy_reader_left_is_cleared_and_what_is_being_fetched_is_not(published, server):
    shards = lazy(published, server).folder / "images.zarr/images/c/0/0"
    shards.mkdir(parents=True)
    killed, fetching = shards / ".0.77-1.part", shards / ".0.78-1.part"
    for part in (killed, fetching):
        part.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(killed, (two_hours_ago, two_hours_ago))
    assert np.array_equal(lazy(published, server)[0][0], published.built.images[0])
    assert (killed.exists(), fetching.exists()) == (False, True)


def test_lazy_version_is_not_materialised(published, server):
    with pytest.raises(InvalidRequest, match="pulled before"):
        lazy(published, server).materialise()


def cut(handler, body):
    """Say the whole length, send half, hang up."""
    handler.answer(206 if "Range" in handler.headers else 200, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def stall(handler, body):
    """Send a little, then nothing."""
    handler.answer(200, body[:100], length=len(body))
    time.sleep(1)


def drip(handler, body):
    """A byte now and then, for ever."""
    handler.answer(200, b"", length=len(body))
    for byte in body[:200]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)


def endless(handler, body):
    """More than was signed, without an end in sight."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(body)


def empty(handler, body):
    """A well-formed answer with nothing in it."""
    handler.answer(200, b"")


def sent_on(handler, where):
    handler.send_response(302)
    handler.send_header("Location", where)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def misdirected(handler, body):
    """On to what is no address."""
    sent_on(handler, "http://[::1")


def in_circles(handler, body):
    """On to the same place, for ever."""
    sent_on(handler, handler.path)


def broken(handler, body):
    """An error of the server, each time."""
    handler.send_error(503)


@pytest.mark.parametrize(
    "harm", [cut, stall, drip, endless, empty, misdirected, in_circles, broken], ids=lambda harm: harm.__name__
)
@pytest.mark.parametrize("path", [SHARDS[0], "/index.json.dsse"], ids=["shard", "index"])
def test_server_that_lies_stalls_or_breaks_off_is_given_up_and_nothing_becomes_visible(
    published, server, tmp_path, monkeypatch, harm, path
):
    monkeypatch.setattr(registries, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(registries, "_PAUSE_SECONDS", 0.001)
    server.harm[path] = harm
    with pytest.raises((IntegrityError, StoreUnavailable)):
        pulls.pull("chest-demo", registry=server.address, trust=published.key, now=NOW, cache=tmp_path / "cache")
    assert not (tmp_path / "cache/chest-demo/1.0.0").exists()


def test_server_that_sends_us_on_to_another_protocol_is_not_followed(published, server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        server.harm["/index.json.dsse"] = lambda handler, _: sent_on(
            handler, f"ftp://127.0.0.1:{elsewhere.getsockname()[1]}/index.json.dsse"
        )
        with pytest.raises(StoreUnavailable):
            pulls.pull("chest-demo", registry=server.address, trust=published.key, now=NOW, cache=tmp_path / "cache")
        with pytest.raises(BlockingIOError):  # nobody knocked
            elsewhere.accept()


def test_server_that_drips_for_ever_is_given_up(published, server, tmp_path, monkeypatch):
    """Each answer brings a little from where the last one broke off: at this pace a pull would take weeks."""
    monkeypatch.setattr(registries, "_PAUSE_SECONDS", 0.001)
    server.harm[SHARDS[0]] = lambda handler, body: (
        handler.answer(206 if "Range" in handler.headers else 200, body[:9], length=len(body)),
        setattr(handler, "close_connection", True),
    )
    with pytest.raises(StoreUnavailable):
        pulls.pull("chest-demo", registry=server.address, trust=published.key, now=NOW, cache=tmp_path / "cache")
    assert len([path for path, _ in server.seen if path == SHARDS[0]]) == registries.TRIES


def test_address_that_is_none_is_one_clear_sentence(published):
    with pytest.raises(InvalidRequest, match="malformed"):
        pulls.pull("chest-demo", registry="http://[::1", trust=published.key)


def test_broken_line_is_taken_up_where_it_broke(published, server, tmp_path, monkeypatch):
    monkeypatch.setattr(registries, "_PAUSE_SECONDS", 0.001)
    turns = []

    def now_and_then(handler, body):
        turns.append(len(body))
        if len(turns) == 6:
            handler.answer(206, body)
        elif len(turns) % 2:
            cut(handler, body) if len(turns) > 1 else handler.send_error(503)
        else:
            handler.answer(206 if "Range" in handler.headers else 200, body[: len(body) // 3], length=len(body))
            handler.close_connection = True

    server.harm[SHARDS[0]] = now_and_then
    folder = pulls.pull("chest-demo", registry=server.address, trust=published.key, now=NOW, cache=tmp_path / "cache")
    assert np.array_equal(medgan.open_folder(folder).images, published.built.images)
    assert len(turns) == 6
    assert turns[1:] == sorted(set(turns), reverse=True)  # each time less is left to ask for


def test_envelope_that_should_be_small_is_not_read_to_its_end(published, monkeypatch):
    monkeypatch.setattr(registries, "_SMALL_FILE_BYTES", 4096)
    (published.zones.registry / "index.json.dsse").write_bytes(b"[" * 10_000_000)
    with pytest.raises(IntegrityError, match="should be small"):
        pulls.pull("chest-demo", registry=str(published.zones.registry), trust=published.key, now=NOW)


def test_deeply_nested_envelope_is_malformed_not_a_crash(published):
    (published.zones.registry / "index.json.dsse").write_bytes(b"[" * 1_000_000)
    with pytest.raises(IntegrityError, match="malformed"):
        pulls.pull("chest-demo", registry=str(published.zones.registry), trust=published.key, now=NOW)


@pytest.mark.parametrize("kind", ["pipe", "folder", "outside"])
def test_what_is_no_regular_file_in_a_registry_is_not_there(published, tmp_path, kind):
    victim = published.folder / "labels.parquet"
    victim.unlink()
    if kind == "pipe":
        os.mkfifo(victim)
    elif kind == "folder":
        victim.mkdir()
    else:
        victim.symlink_to("/etc/passwd")
    with pytest.raises((IntegrityError, StoreUnavailable)):
        pulls.pull(
            "chest-demo", registry=str(published.zones.registry), trust=published.key, now=NOW, cache=tmp_path / "cache"
        )
    assert not (tmp_path / "cache/chest-demo/1.0.0").exists()


def test_disk_that_is_too_small_is_told_with_both_numbers(published, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InvalidRequest, match=r"still to come and 0\.0 GB are free"):
        pulls.pull("chest-demo", registry=str(published.zones.registry), trust=published.key, now=NOW)


def pull_in_child(published, cache, before=""):
    """A process that does `before` (where `pull(cache)` is at hand), then pulls into `cache`."""
    key = published.zones.published.parent / "handed-over.pub"
    key.write_bytes(published.key.read_bytes())
    code = (
        "import os, resource\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from medgan.client import pull as pulls\nfrom medgan.errors import MedganError\n"
        f"def pull(cache): pulls.pull('chest-demo', registry={str(published.zones.registry)!r}, "
        f"trust={str(key)!r}, cache=Path(cache), now=datetime(2026, 11, 21, tzinfo=UTC))\n"
        f"try:\n {before or 'pass'}\n pull({str(cache)!r})\n"
        "except MedganError as error: print(error.kind, error); raise SystemExit(error.exit_status)\n"
    )
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)


def test_disk_that_fills_up_during_a_pull_is_an_error_and_the_next_pull_goes_on(published, tmp_path):
    """A real refusal of the kernel: no file may grow beyond 200 kB in the child."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    child = pull_in_child(published, tmp_path / "cache", limit)
    assert (child.returncode, child.stdout.split()[0]) == (9, "store-unavailable"), child
    assert not (tmp_path / "cache/chest-demo/1.0.0").exists()
    assert pull_in_child(published, tmp_path / "cache").returncode == 0
    assert (tmp_path / "cache/chest-demo/1.0.0").is_dir()


def test_pull_killed_again_and_again_shows_nothing_half_and_finishes(published, server, tmp_path):
    """kill -9 while the shards arrive, four times at growing depth; what is whole is not fetched again."""

    def slow(handler, body):
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for start in range(0, len(body), 40_000):
            handler.wfile.write(body[start : start + 40_000])
            handler.wfile.flush()
            time.sleep(0.05)

    server.harm["/c/0/0/0"] = slow
    code = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path; from medgan.client import pull; "
        f"pull.pull('chest-demo', registry={server.address!r}, trust={str(published.key)!r}, "
        f"cache=Path({str(tmp_path / 'cache')!r}), now=datetime(2026, 11, 21, tzinfo=UTC))"
    )
    for _ in range(4):
        before = len(server.seen)
        with subprocess.Popen([sys.executable, "-c", code]) as child:
            while not any("/c/0/0/0" in path for path, _ in server.seen[before:]) and child.poll() is None:
                time.sleep(0.01)
            time.sleep(0.15)
            child.kill()
        assert not (tmp_path / "cache/chest-demo/1.0.0").exists()
    server.harm.clear()
    folder = pulls.pull("chest-demo", registry=server.address, trust=published.key, now=NOW, cache=tmp_path / "cache")
    assert np.array_equal(medgan.open_folder(folder).images, published.built.images)
    assert [path for path, asked in server.seen if "/c/1/0/0" in path and asked is None] in (
        [SHARDS[1]],
        [SHARDS[1]] * 2,
    )
    assert any(asked for path, asked in server.seen if path == SHARDS[0])


def test_read_only_home_and_cache_serve_what_was_pulled(published, tmp_path):
    """A second machine mounts the pulled cache read-only; here nobody may write a file at all."""
    assert pull_in_child(published, tmp_path / "cache").returncode == 0
    for folder in (tmp_path / "cache", tmp_path / "home"):
        for path in [folder, *folder.rglob("*")]:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    before = "pass"
    if os.geteuid() == 0:  # imports first: the interpreter itself may lie where only root may read
        _open_to_all(tmp_path)
        before = f"pull({str(tmp_path / 'warm')!r}); os.setgid(65534); os.setuid(65534)"
    child = pull_in_child(published, tmp_path / "cache", before)
    assert child.returncode == 0, child
    other = pull_in_child(published, tmp_path / "home" / "cache", before)
    assert (other.returncode, other.stdout.split()[0]) == (9, "store-unavailable"), other


def _open_to_all(folder: Path) -> None:
    """Let another user in: pytest's folders are for their owner alone."""
    root = Path(tempfile.gettempdir()).resolve()
    for path in (*(parent for parent in folder.parents if root in parent.parents), folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(path.stat().st_mode | 0o055)
