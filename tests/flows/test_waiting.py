"""What a flow waits for: files that arrive, and training that runs elsewhere."""

from __future__ import annotations

import threading

import pytest
from prefect.states import Cancelled, Crashed, Failed

from medgan import keys
from medgan.archive import place, sources
from medgan.errors import InvalidRequest, StoreUnavailable, TrainingDiverged
from medgan.settings import Zones
from tasks import elsewhere, watch


@pytest.fixture
def zones(tmp_path):
    zones = Zones.under(tmp_path / "workspace")
    keys.create(zones.keys / "pseudonym.key")
    return zones


def _register(kind, folder, zones):
    folder.mkdir(exist_ok=True)
    keyring = keys.load(zones.pseudonym_key)
    sources.register(place.parse(kind.format(folder)), zones=zones, keyring=keyring, name="incoming")


def test_what_arrives_is_told_once_and_an_emptied_folder_is_no_news(zones, tmp_path):
    incoming = tmp_path / "incoming"
    _register("drop:{}?settle=0", incoming, zones)
    looks = watch.arrivals("incoming", zones, every_seconds=0.05)
    (incoming / "1.dcm").write_bytes(b"1")
    (incoming / "2.dcm.part").write_bytes(b"2")
    assert next(looks) == 1
    (incoming / "1.dcm").unlink()

    def arrive() -> None:
        for number in (3, 4):
            (incoming / f".{number}").write_bytes(b"%d" % number)
        for number in (3, 4):
            (incoming / f".{number}").rename(incoming / f"{number}.dcm")

    later = threading.Timer(0.5, arrive)
    later.start()
    told = next(looks)
    later.join()
    assert told in {1, 2}, "an empty folder would have been told of as 0"
    assert told == 2 or next(looks) == 2


def test_only_a_drop_folder_is_watched(zones, tmp_path):
    _register("{}", tmp_path / "incoming", zones)
    with pytest.raises(InvalidRequest, match="no drop folder"):
        next(watch.arrivals("incoming", zones, every_seconds=1))


def test_a_verdict_of_training_elsewhere_stays_a_verdict_and_a_death_is_tried_again():
    diverged = Failed(message="Flow run encountered an exception: TrainingDiverged: a loss became non-finite")
    with pytest.raises(TrainingDiverged) as verdict:
        elsewhere._outcome(diverged)
    assert not verdict.value.retryable
    for state in (Crashed(message="OOM"), Failed(message="Flow run failed"), None):
        with pytest.raises(StoreUnavailable) as death:
            elsewhere._outcome(state)
        assert death.value.retryable


def test_training_that_a_person_cancelled_is_not_tried_again():
    with pytest.raises(elsewhere.TrainingCancelled) as end:
        elsewhere._outcome(Cancelled())
    assert not end.value.retryable
