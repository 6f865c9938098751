"""What arrives is whole or not there; what is still being copied waits."""

from __future__ import annotations

import fcntl
import io
import os
import zipfile

import pytest

from medgan.archive import drop, place, scan, sources
from medgan.archive.landing import Landing, names
from medgan.errors import StoreUnavailable, UnusableArchive
from medgan.settings import Zones
from tests.unit.archive.builders import KEYRING, sound


@pytest.fixture
def zones(tmp_path) -> Zones:
    return Zones.under(tmp_path / "workspace")


def files(landing: Landing) -> list[bytes]:
    return [path.read_bytes() for path in sorted(landing.files.rglob("*")) if path.is_file()]


def test_the_same_bytes_under_a_name_arrive_once_and_other_bytes_beside_them(zones):
    landing = Landing("a", zones=zones, keyring=KEYRING)
    handle = landing.handle("1.2.3")
    assert landing.add(handle, [b"one", b"two"])
    assert not landing.add(handle, [b"onetwo"])
    assert landing.add(handle, [b"other"])
    assert sorted(files(landing)) == [b"onetwo", b"other"]
    assert Landing("a", zones=zones, keyring=KEYRING).holds(handle)


def test_an_arrival_that_breaks_off_leaves_nothing(zones):
    landing = Landing("a", zones=zones, keyring=KEYRING)

    def broken():
        yield b"half"
        raise OSError

    with pytest.raises(StoreUnavailable):
        landing.add(landing.handle("x"), broken())
    assert [path for path in landing.files.parent.rglob("*") if path.is_file()] == []
    assert not landing.holds(landing.handle("x"))


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(zones):
    landing = Landing("a", zones=zones, keyring=KEYRING)
    partial = landing.files.parent / "partial"
    (partial / "dead").write_bytes(b"half")
    with (partial / "alive").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Landing("a", zones=zones, keyring=KEYRING)
        assert [path.name for path in partial.iterdir()] == ["alive"]


def test_no_name_of_a_sender_becomes_a_file_name(zones, tmp_path):
    landing = Landing("a", zones=zones, keyring=KEYRING)
    landing.add(landing.handle("../../../climbing"), [b"x"])
    assert not list(tmp_path.rglob("*climbing*"))


# -------------------------------------------------------------------------------------- drop folder


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def registered(incoming, zones, settle: int = 0):
    return sources.register(place.parse(f"drop:{incoming}?settle={settle}"), zones=zones, keyring=KEYRING, name="drop")


def scanned(ref, zones):
    return scan.scan(ref, zones=zones, keyring=KEYRING)


def packed(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for number in range(count):
            target.writestr(f"{number}.dcm", sound(patient=20 + number))
    return buffer.getvalue()


def test_files_that_are_being_copied_wait_and_are_read_when_they_are_finished(incoming, zones):
    ref = registered(incoming, zones)
    whole = packed(3)
    (incoming / "first.dcm").write_bytes(sound(patient=1))
    (incoming / "second.dcm.part").write_bytes(sound(patient=2))
    (incoming / ".third.dcm.X7f2").write_bytes(sound(patient=3))
    (incoming / "half.zip").write_bytes(whole[: len(whole) // 2])
    (incoming / "half.dcm").write_bytes(sound(patient=4)[:-100])
    first = scanned(ref, zones)
    assert (first.instances, first.waiting, first.rejected) == (1, 4, {})
    (incoming / "half.zip").write_bytes(whole)
    (incoming / "half.dcm").write_bytes(sound(patient=4))
    (incoming / "second.dcm.part").rename(incoming / "second.dcm")
    second = scanned(ref, zones)
    assert (second.instances, second.waiting, second.rejected) == (6, 1, {})


def test_a_file_that_changed_a_moment_ago_waits_whatever_time_the_copy_claims(incoming, zones):
    ref = registered(incoming, zones, settle=3600)
    (incoming / "old.dcm").write_bytes(sound())
    os.utime(incoming / "old.dcm", (0, 0))  # cp -p
    with pytest.raises(UnusableArchive, match="later"):
        scanned(ref, zones)


def test_a_file_dated_into_the_future_does_not_wait_for_it(incoming, zones):
    ref = registered(incoming, zones, settle=0)
    (incoming / "scanner.dcm").write_bytes(sound())
    os.utime(incoming / "scanner.dcm", (4_000_000_000, 4_000_000_000))
    found = scanned(ref, zones)
    assert (found.instances, found.waiting) == (1, 0)


def test_a_file_that_stayed_cut_short_for_a_day_is_refused_with_its_reason(incoming, zones, monkeypatch):
    ref = registered(incoming, zones)
    (incoming / "half.dcm").write_bytes(sound()[:-100])
    (incoming / "half.zip").write_bytes(packed(3)[:900])
    monkeypatch.setattr(drop, "PATIENCE_SECONDS", 0)
    found = scanned(ref, zones)
    assert (found.waiting, found.rejected) == (0, {"TRUNCATED": 1, "BAD_ARCHIVE": 1})


# -------------------------------------------------------------------------------------- letting go


def test_what_was_let_go_of_counts_as_arrived_until_the_sender_lists_it_no_more(zones):
    landing = Landing("a", zones=zones, keyring=KEYRING)
    old, new = landing.handle("old"), landing.handle("new")
    for handle in (old, new):
        landing.add(handle, [handle.encode()])
    landing.name({old: "DOE_JANE/old.dcm", new: "DOE_JANE/new.dcm"})
    landing.let_go([path.name for path in landing.files.rglob("in-*")], remember=True)
    again = Landing("a", zones=zones, keyring=KEYRING)
    assert files(again) == []
    assert names("a", zones=zones, keyring=KEYRING) == {}
    assert again.holds(old)
    again.forget_others({new})
    third = Landing("a", zones=zones, keyring=KEYRING)
    assert (third.holds(old), third.holds(new)) == (False, True)


def test_a_ledger_that_a_kill_cut_short_loses_its_last_line_only(zones):
    landing = Landing("a", zones=zones, keyring=KEYRING)
    handles = [landing.handle(str(number)) for number in range(3)]
    for handle in handles[:2]:
        landing.add(handle, [b"x"])
    landing.let_go([path.name for path in landing.files.rglob("in-*")], remember=True)
    ledger = landing.files.parent / "let-go"
    ledger.write_bytes(ledger.read_bytes()[:-5])
    landing = Landing("a", zones=zones, keyring=KEYRING)
    assert sum(map(landing.holds, handles)) == 1
    landing.add(handles[2], [b"x"])
    landing.let_go([path.name for path in landing.files.rglob("in-*")], remember=True)
    assert sum(map(Landing("a", zones=zones, keyring=KEYRING).holds, handles)) == 2
