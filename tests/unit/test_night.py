import json

import pytest

from medgan import night
from medgan.errors import Conflict, IntegrityError
from medgan.settings import Zones


def test_an_open_night_is_given_again_and_a_finished_one_is_followed(tmp_path):
    zones = Zones.under(tmp_path)
    first = night.begin("chest-xray", zones=zones)
    assert night.begin("chest-xray", zones=zones) == first
    night.finish(first, "published", zones=zones)
    night.finish(first, "published", zones=zones)
    second = night.begin("chest-xray", zones=zones)
    assert (first.number, second.number) == (1, 2)
    assert [entry.outcome for entry in night.history("chest-xray", zones=zones)] == ["published", None]


def test_two_data_sets_count_their_own_nights(tmp_path):
    zones = Zones.under(tmp_path)
    night.finish(night.begin("a", zones=zones), "published", zones=zones)
    assert night.begin("a", zones=zones).number == 2
    assert night.begin("b", zones=zones).number == 1


def test_a_night_is_closed_once(tmp_path):
    zones = Zones.under(tmp_path)
    tonight = night.begin("a", zones=zones)
    night.finish(tonight, "privacy-refused", zones=zones)
    with pytest.raises(Conflict):
        night.finish(tonight, "published", zones=zones)
    with pytest.raises(Conflict):
        night.finish(tonight.model_copy(update={"number": 7}), "published", zones=zones)


def test_a_name_that_would_leave_the_ledger_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset"):
        night.begin("../elsewhere", zones=Zones.under(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_file_is_canonical_json_and_nothing_is_left_beside_it(tmp_path):
    zones = Zones.under(tmp_path)
    night.begin("a", zones=zones)
    folder = zones.pseudonymised / "nights" / "a"
    assert [path.name for path in folder.iterdir()] == ["0001.json"]
    assert json.loads((folder / "0001.json").read_bytes())["outcome"] is None


def test_a_night_has_one_run_and_the_lock_goes_with_it(tmp_path):
    zones = Zones.under(tmp_path)
    with (
        night.held("chest-xray", zones=zones),
        night.held("hands", zones=zones),
        pytest.raises(Conflict, match="another run"),
        night.held("chest-xray", zones=zones),
    ):
        pass
    with night.held("chest-xray", zones=zones):
        night.begin("chest-xray", zones=zones)


def test_numbers_go_on_after_a_gap_and_copies_beside_the_ledger_are_no_nights(tmp_path):
    zones = Zones.under(tmp_path)
    for _ in range(3):
        night.finish(night.begin("a", zones=zones), "published", zones=zones)
    ledger = zones.pseudonymised / "nights/a"
    (ledger / "0002.json").rename(ledger / "0002 (copy).json")
    assert night.begin("a", zones=zones).number == 4


def test_a_damaged_ledger_is_told_and_not_written_over(tmp_path):
    zones = Zones.under(tmp_path)
    night.begin("a", zones=zones)
    (zones.pseudonymised / "nights/a/0001.json").write_bytes(b"")
    with pytest.raises(IntegrityError, match="ledger"):
        night.begin("a", zones=zones)
