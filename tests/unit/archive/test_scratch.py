"""Folders to unpack into: what killed runs left goes, what people put beside it never does."""

from __future__ import annotations

import os
import tempfile
import time

import pytest

from medgan.archive import scratch

_UNPACKED = "0" * 64


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def made(folder, *names, mode=0o700, days=0):
    folder.mkdir()
    for name in names:
        (folder / name).write_text("DOE^JANE")
    folder.chmod(mode)
    changed = time.time() - days * 24 * 3600
    os.utime(folder, (changed, changed))
    return folder


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("medgan-deid-output", "mine.dcm"),
        ("medgan-deid-baseline", "mine.dcm"),  # eight letters, as mkdtemp writes them
        ("medgan-restore-results-2026", _UNPACKED),
        ("medgan-learn-images", "mine.dcm"),
        (f"{scratch.PREFIX}mine", "mine.dcm"),
    ],
)
def test_a_folder_of_people_stays_however_it_is_called(name, held, temporary):
    folder = made(temporary / name, held, days=30)
    with scratch.own_folder():
        pass
    assert (folder / held).read_text() == "DOE^JANE"


@pytest.mark.parametrize("change", [{"mode": 0o755, "days": 30}, {"days": 0.5}])
def test_what_others_can_read_or_is_in_use_today_is_not_taken_for_an_earlier_release_s(change, temporary):
    folder = made(temporary / "medgan-deid-a1b2c3_4", _UNPACKED, **change)
    with scratch.own_folder():
        pass
    assert folder.is_dir()


def test_what_killed_runs_unpacked_goes_and_what_is_held_stays(temporary):
    made(temporary / f"{scratch.PREFIX}a1b2c3_4", scratch.MARK, "anything")
    made(temporary / "medgan-restore-a1b2c3_4", _UNPACKED, f".{'0' * 16}.part", days=2)
    with scratch.own_folder() as living:
        (living / _UNPACKED).write_text("DOE^JANE")
        with scratch.own_folder() as another:
            assert set(temporary.iterdir()) == {living, another}
            assert (living / _UNPACKED).exists()
    assert list(temporary.iterdir()) == []
