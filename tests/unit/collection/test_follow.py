"""Following a drop folder: what is finished is stored once, what is not waits, what fails for now is tried again."""

from __future__ import annotations

import pytest

from medgan import keys
from medgan.archive import phantom, place, sources
from medgan.collection import follow, layout, store
from medgan.collection.committer import committer
from medgan.errors import UnusableKey


@pytest.fixture
def incoming(tmp_path, zones):
    folder = tmp_path / "incoming"
    folder.mkdir()
    keyring = keys.load(zones.pseudonym_key)
    sources.register(place.parse(f"drop:{folder}?settle=0"), zones=zones, keyring=keyring, name="drop")
    return folder


@pytest.fixture
def looks(zones, scheduler):
    return follow.follow("drop", zones=zones, collection="main", profile="basic", scheduler=scheduler)


def test_arrivals_are_ingested_as_they_are_finished_and_looked_at_once(incoming, looks, zones):
    first, second = phantom.phantom_study(patient=1, instances=2)
    assert next(looks) == "the archive is empty"
    (incoming / "1.dcm").write_bytes(first)
    (incoming / "2.dcm.part").write_bytes(second)
    assert next(looks) == "1 stored, 0 known, 0 quarantined, 1 waiting"
    assert next(looks) == ""
    (incoming / "2.dcm.part").rename(incoming / "2.dcm")
    assert next(looks) == "1 stored, 1 known, 0 quarantined, 0 waiting"
    assert store.head("main", zones=zones).instances == 2


def test_another_ingest_is_waited_for_and_a_lost_key_is_not(incoming, looks, zones):
    (incoming / "1.dcm").write_bytes(phantom.phantom_study(patient=1)[0])
    with committer("main", zones=zones):
        assert next(looks).startswith("conflict: ")
    assert next(looks).startswith("1 stored")
    assert layout.repository("main", zones=zones).exists()
    (zones.keys / "pseudonym.key").unlink()
    with pytest.raises(UnusableKey):
        next(follow.follow("drop", zones=zones, collection="main", profile="basic"))
