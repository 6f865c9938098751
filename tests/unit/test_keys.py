"""Key custody: no key, no run; and nothing derived predicts anything else."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgan import keys
from medgan.errors import StoreUnavailable, UnusableKey

RING = keys.Keyring(secret=bytes(range(32)))
WORDS = st.lists(st.text(max_size=8), min_size=1, max_size=4)


def test_a_created_key_is_private_and_opens(tmp_path):
    path = tmp_path / "keys" / "pseudonym.key"
    keys.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert len(keys.load(f"file:{path}").secret) == keys.SECRET_BYTES


def test_a_key_is_never_overwritten(tmp_path):
    keys.create(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(UnusableKey, match="never overwritten"):
        keys.create(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == before


def test_where_there_are_no_hard_links_a_key_is_made_and_never_overwritten(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    keys.create(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    assert len(keys.load(f"file:{tmp_path / 'k'}").secret) == keys.SECRET_BYTES
    with pytest.raises(UnusableKey, match="never overwritten"):
        keys.create(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", 0o600), ("00" * 31, 0o600), ("zz" * 32, 0o600), ("00" * 32, 0o644), ("00" * 32, 0o640)],
    ids=["empty", "short", "not hex", "world-readable", "group-readable"],
)
def test_an_unusable_key_refuses_to_start(tmp_path, text, mode):
    path = tmp_path / "k"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(UnusableKey):
        keys.load(f"file:{path}")


def test_a_key_that_is_no_text_a_folder_or_a_pipe_refuses_to_start_at_once(tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(120, 152)))
    (tmp_path / "binary").chmod(0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("binary", "folder", "pipe"):
        with pytest.raises(UnusableKey):
            keys.load(f"file:{tmp_path / name}")


def test_a_key_that_the_disk_refuses_leaves_no_half_key_and_the_next_try_makes_it(tmp_path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    whole = os.fsync
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreUnavailable) as refused:
        keys.create(tmp_path / "keys" / "k")
    monkeypatch.setattr(os, "fsync", whole)
    assert str(tmp_path) not in str(refused.value)
    assert not list((tmp_path / "keys").iterdir())
    keys.create(tmp_path / "keys" / "k")
    assert keys.load(f"file:{tmp_path / 'keys' / 'k'}")
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["k"]


def test_a_missing_key_a_link_and_an_unknown_handle_refuse_to_start(tmp_path, monkeypatch):
    keys.create(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for handle in (f"file:{tmp_path / 'missing'}", f"file:{tmp_path / 'link'}", "env:NO_SUCH_KEY", "pseudonym.key"):
        with pytest.raises(UnusableKey):
            keys.load(handle)


def test_a_keyring_shows_nothing_of_itself():
    assert RING.secret.hex() not in repr(RING)
    assert repr(RING.secret) not in repr(RING)


@given(WORDS, WORDS)
def test_different_parts_never_share_a_mac(first, second):
    assert (RING.mac("patient-id", *first) == RING.mac("patient-id", *second)) == (first == second)


@given(WORDS)
def test_purposes_are_independent(parts):
    assert RING.mac("patient-id", *parts) != RING.mac("uid", *parts)


@given(st.binary(max_size=200))
def test_what_is_sealed_opens_with_its_key_and_purpose_only(plain):
    sealed = RING.seal("intake", plain)
    assert RING.unseal("intake", sealed) == plain
    other = keys.Keyring(secret=bytes(32))
    with pytest.raises(UnusableKey):
        other.unseal("intake", sealed)
    with pytest.raises(UnusableKey):
        RING.unseal("labels", sealed)
    with pytest.raises(UnusableKey):
        RING.unseal("intake", sealed[:-1] + bytes([sealed[-1] ^ 1]))
