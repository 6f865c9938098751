"""Pins that cannot be lost by a mistake, and a cache in which somebody planted what should not be there."""

from __future__ import annotations

import errno
import fcntl
import threading
from datetime import UTC, datetime

import pytest

import medgan
from medgan.client import disk, trust, verify
from medgan.client import pull as pulls
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable, UnusableKey
from medgan.release import retract, sign

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def pull(published, spec="chest-demo", **options):
    return pulls.pull(spec, registry=str(published.zones.registry), now=NOW, **({"trust": published.key} | options))


def test_a_wrong_key_named_once_is_not_remembered(published, tmp_path):
    stranger = sign.create_key(tmp_path / "other.key")
    with pytest.raises(IntegrityError, match="0 of the 1 signatures"):
        pull(published, trust=stranger)
    assert pull(published).is_dir()


@pytest.mark.parametrize("torn", [b"", b"[]", b'{"counter": Infinity, "keys": []}', b"[" * 100_000])
def test_a_torn_pin_is_pinned_again_as_the_message_says(published, tmp_path, torn):
    pull(published)
    next((tmp_path / "home/trust").glob("*.json")).write_bytes(torn)
    with pytest.raises(UnusableKey, match="--trust"):
        pull(published, trust=None)
    assert pull(published).is_dir()


def test_one_key_named_twice_is_not_two_signers(published, tmp_path):
    twice = tmp_path / "twice.pub"
    twice.write_bytes(published.key.read_bytes() * 2)
    with pytest.raises(UnusableKey, match="twice"):
        pull(published, trust=twice)


def test_the_same_key_in_another_spelling_is_the_same_key(published, tmp_path):
    pull(published)
    spelled = tmp_path / "spelled.pub"
    spelled.write_bytes(b"From the publisher:\r\n" + published.key.read_bytes().replace(b"\n", b" \r\n"))
    assert pull(published, trust=spelled).is_dir()


def test_the_counter_seen_never_goes_down_whoever_writes_it_last(published):
    keys, registry = trust.read_public(published.key), "somewhere"

    def see(counter):
        trust.remember(trust.Trust(registry=registry, keys=keys, counter=counter))

    threads = [threading.Thread(target=see, args=(counter,)) for counter in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trust.recall(registry).counter == 39


def test_a_signature_given_after_the_pull_is_brought(published, tmp_path):
    pull(published, "chest-demo@1.0.0")
    approver = sign.create_key(tmp_path / "approver.key")
    retract.approve("chest-demo@1.0.0", key=tmp_path / "approver.key", zones=published.zones, now=NOW)
    both = tmp_path / "both.pub"
    both.write_bytes(published.key.read_bytes() + approver.read_bytes())
    folder = pull(published, "chest-demo@1.0.0", trust=both)
    verify.verify_folder(folder, keys=trust.read_public(both), name="chest-demo", version="1.0.0")


def test_trainings_that_start_at_once_share_one_pull(published, tmp_path):
    found, problems = [], []

    def start():
        try:
            found.append(pull(published, cache=tmp_path / "cache"))
        except Exception as problem:  # noqa: BLE001 - a thread has nobody to raise to
            problems.append(problem)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert set(found) == {tmp_path / "cache/chest-demo/1.0.0"}


def test_a_folder_is_filled_when_it_is_empty_and_left_alone_when_it_is_not(published, tmp_path):
    (tmp_path / "empty").mkdir()
    assert medgan.open_folder(pull(published, destination=tmp_path / "empty")).version == "1.0.0"
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.txt").write_text("x")
    for place in ("used", "used/thesis.txt"):
        with pytest.raises(InvalidRequest, match="name a new folder"):
            pull(published, destination=tmp_path / place)


@pytest.mark.parametrize("planted", ["labels.parquet.part", "labels.parquet", "reports", ""])
def test_nothing_is_written_through_a_link_planted_in_the_cache(published, tmp_path, planted):
    """Whoever shares the cache could else have our pull write, or delete, wherever we may."""
    cache = tmp_path / "cache/chest-demo"
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("x")
    (number,) = pulls.connect(str(published.zones.registry), trust=published.key, now=NOW).index.datasets[0].versions
    staging = cache / f".1.0.0-{number.manifest_sha256[:16]}.partial"
    (staging if planted else cache).mkdir(parents=True)
    target = victim if planted in {"reports", ""} else victim / "thesis.txt"
    (staging / planted).symlink_to(target)
    folder = pull(published, cache=tmp_path / "cache")
    assert [path.name for path in victim.iterdir()] == ["thesis.txt"]
    assert (victim / "thesis.txt").read_text() == "x"
    assert not folder.is_symlink()
    verify.verify_folder(folder, keys=trust.read_public(published.key), name="chest-demo", version="1.0.0")


def test_a_link_planted_where_lazy_reading_caches_is_not_believed(published, tmp_path):
    about = {"registry": str(published.zones.registry), "trust": published.key, "lazy": True, "now": NOW}
    dataset = medgan.load("chest-demo", cache=tmp_path / "cache", **about)
    labels = dataset.folder / "labels.parquet"
    (tmp_path / "elsewhere").write_bytes(labels.read_bytes())
    labels.unlink()
    labels.symlink_to(tmp_path / "elsewhere")
    medgan.load("chest-demo", cache=tmp_path / "cache", **about)
    assert not labels.is_symlink()


def test_copies_beside_a_version_do_not_confuse_reading_offline(published):
    folder = pull(published)
    for name in ("1.0.0.bak", "2.x.0", "9.0.0 (copy)"):
        (folder.parent / name).mkdir()
    assert pull(published, offline=True) == folder


def test_a_file_that_may_not_be_read_is_not_called_damaged(published, monkeypatch):
    folder = pull(published)
    real = type(folder).open

    def refuse(path, *args, **options):
        if path.name == "labels.parquet":
            raise OSError(errno.EACCES, "no")
        return real(path, *args, **options)

    monkeypatch.setattr(type(folder), "open", refuse)
    with pytest.raises(StoreUnavailable, match="Permission denied"):
        pull(published)


def test_a_file_system_without_hard_links_or_locks_says_so_or_does_without(published, tmp_path, monkeypatch):
    registry = str(published.zones.registry)
    cache = tmp_path / "cache"
    medgan.load("chest-demo", registry=registry, trust=published.key, lazy=True, now=NOW, cache=cache)

    def refuse(*_args, **_options):
        raise OSError(errno.EOPNOTSUPP, "no")

    with monkeypatch.context() as patched:
        patched.setattr("os.link", refuse)
        assert pull(published, cache=cache).is_dir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreUnavailable, match="not supported"), disk.locked(tmp_path / "lock"):
        pass


def test_a_folder_with_a_space_is_addressed_as_its_uri(published, tmp_path):
    moved = published.zones.registry.rename(tmp_path / "our registry")
    assert pulls.pull("chest-demo", registry=moved.as_uri(), trust=published.key, now=NOW).is_dir()


def test_a_split_that_is_none_has_no_images_either(published):
    with pytest.raises(InvalidRequest, match="no split of that name: train"):
        medgan.open_folder(published.folder, "tset").images  # noqa: B018 - the access is the test
