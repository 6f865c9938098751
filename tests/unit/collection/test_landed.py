"""Copies of a remote archive stay until the collection answers for them, and go for good where a patient does."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydicom import dcmread

from medgan import keys
from medgan.archive import landing as landings
from medgan.archive import phantom, place, prune, scan, sources
from medgan.archive.landing import Landing
from medgan.collection import erase, ingest, landed, read, store
from medgan.deid import review
from medgan.errors import InvalidRequest
from medgan.records import sha256_hex

STUDY = phantom.phantom_study(patient=1, instances=3)
OTHER = phantom.phantom_study(patient=2, instances=2)
TABLE = b"PatientID,finding\nx,y\n"
BROKEN = phantom.phantom_study(patient=3)[0][:-100]


class Pushed:
    """A receiver's landing: what is pushed, what a night makes of it, what is left."""

    def __init__(self, zones, scheduler) -> None:
        self.zones, self._scheduler = zones, scheduler
        self.keyring = keys.load(zones.pseudonym_key)
        address = place.parse("receive://MEDGAN@127.0.0.1:11112?from=CT1")
        self._ref = sources.register(address, zones=zones, keyring=self.keyring, name="pushed")

    def push(self, files: Iterable[bytes]) -> None:
        landing = Landing("pushed", zones=self.zones, keyring=self.keyring)
        for content in files:
            landing.add(landing.handle(sha256_hex(content)), [content])
        landing.name({landing.handle(sha256_hex(TABLE)): "labels.csv"})

    def night(self):
        found = scan.scan(self._ref, zones=self.zones, keyring=self.keyring)
        return ingest.ingest(
            found, zones=self.zones, key_handle=self.zones.pseudonym_key, collection="main", scheduler=self._scheduler
        )

    def here(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files()]

    def files(self) -> list[Path]:
        return sorted(path for path in landings.folder("pushed", self.zones).rglob("*") if path.is_file())


@pytest.fixture
def pushed(zones, scheduler) -> Pushed:
    return Pushed(zones, scheduler)


def packed(files: Iterable[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for number, content in enumerate(files):
            target.writestr(zipfile.ZipInfo(f"{number}.dcm"), content)
    return buffer.getvalue()


def test_what_the_collection_holds_is_let_go_of_and_what_was_refused_stays(pushed, monkeypatch):
    monkeypatch.setenv(prune.DAYS_VARIABLE, "0")
    pushed.push([*STUDY, BROKEN, TABLE])
    report = pushed.night()
    assert (report.stored, report.let_go) == (3, 3)
    assert sorted(pushed.here()) == sorted([BROKEN, TABLE])
    again = pushed.night()
    assert (again.received, again.let_go, again.snapshot) == (1, 0, report.snapshot)


def test_copies_stay_for_the_days_that_the_site_says_and_for_ever_where_it_says_nothing(pushed, monkeypatch):
    pushed.push(STUDY)
    assert pushed.night().let_go == 0
    monkeypatch.setenv(prune.DAYS_VARIABLE, "7")
    assert pushed.night().let_go == 0
    for path in pushed.files():
        os.utime(path, (path.stat().st_mtime - 8 * 24 * 3600,) * 2)
    assert pushed.night().let_go == 3
    monkeypatch.setenv(prune.DAYS_VARIABLE, "soon")
    with pytest.raises(InvalidRequest, match="whole number"):
        prune.days_kept()


def test_a_night_in_which_nothing_came_is_no_failure_and_the_instance_that_comes_again_is_known(pushed, monkeypatch):
    monkeypatch.setenv(prune.DAYS_VARIABLE, "0")
    pushed.push(STUDY)
    first = pushed.night()
    assert pushed.night().snapshot == first.snapshot
    pushed.push(STUDY[:1])
    again = pushed.night()
    assert (again.known, again.let_go, again.snapshot) == (1, 1, first.snapshot)


def test_an_archive_goes_when_all_that_is_in_it_is_settled_and_so_does_what_was_unpacked(pushed, monkeypatch):
    monkeypatch.setenv(prune.DAYS_VARIABLE, "0")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as target:
        for number, content in enumerate(STUDY):
            entry = tarfile.TarInfo(f"{number}.dcm")
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    pushed.push([buffer.getvalue(), packed([*OTHER, BROKEN])])
    report = pushed.night()
    assert (report.stored, report.let_go) == (5, 1)
    assert pushed.here() == [packed([*OTHER, BROKEN])]
    assert not [path for path in (pushed.zones.identified / "spool").rglob("*") if path.is_file()]


def test_a_second_packing_of_a_stored_instance_goes_with_it_and_a_conflict_stays(pushed, monkeypatch):
    monkeypatch.setenv(prune.DAYS_VARIABLE, "0")
    repacked = STUDY[0][:128].replace(b"\0", b"\1") + STUDY[0][128:]
    pushed.push([STUDY[0], repacked])
    assert pushed.night().let_go == 2
    pushed.push([STUDY[0][:-2] + b"\x11\x11"])
    report = pushed.night()
    assert (report.quarantined, report.let_go) == ({"CONFLICT": 1}, 0)
    assert len(pushed.files()) == 1


def test_killed_between_ledger_and_deletion_it_is_finished_by_the_next_night(pushed, monkeypatch):
    monkeypatch.setenv(prune.DAYS_VARIABLE, "0")
    pushed.push(STUDY)

    whole = Path.unlink

    def cut_off(path, **options):
        if path.parent.parent.name == "files":
            raise KeyboardInterrupt
        whole(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pushed.night()
    assert len(pushed.files()) == 3
    assert pushed.night().let_go == 3


def test_an_erased_patient_is_gone_from_the_landing_with_what_was_never_stored_and_does_not_stay_again(pushed):
    zones = pushed.zones
    pushed.push([*STUDY, *OTHER])
    report = pushed.night()
    gone = patient_of(STUDY, pushed)
    unread = phantom.phantom_study(patient=1, study=2)[0]
    pushed.push([unread])
    scan.scan(pushed._ref, zones=zones, keyring=pushed.keyring)
    picture = review.picture_path(zones, sha256_hex(unread))
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(b"sealed")
    record = erase.erase("main", gone, zones=zones)
    assert (record.landed, record.landed_shared, record.complete) == (4, 0, True)
    assert sorted(pushed.here()) == sorted(OTHER)
    assert not picture.exists()
    pushed.push([*STUDY[:1], unread])
    report = pushed.night()
    assert (report.withdrawn, report.let_go) == (2, 2)
    assert sorted(pushed.here()) == sorted(OTHER)


def test_a_landed_archive_with_others_in_it_goes_when_they_are_settled_and_is_said_until_then(pushed):
    pushed.push([packed([*STUDY, *OTHER]), packed([STUDY[0], BROKEN])])
    pushed.night()
    record = erase.erase("main", patient_of(STUDY, pushed), zones=pushed.zones)
    assert (record.landed, record.landed_shared) == (1, 1)
    assert pushed.here() == [packed([STUDY[0], BROKEN])]


def test_pruning_by_hand_asks_the_collection_what_it_holds(pushed):
    pushed.push([*STUDY, BROKEN])
    pushed.night()
    head = store.head("main", zones=pushed.zones)
    done = landed.prune(head, "pushed", days=0, zones=pushed.zones, keyring=pushed.keyring)
    assert done.let_go == 3
    assert pushed.here() == [BROKEN]


def test_what_is_refused_of_an_erased_patient_who_comes_again_does_not_stay_either(pushed):
    pushed.push(STUDY)
    pushed.night()
    erase.erase("main", patient_of(STUDY, pushed), zones=pushed.zones)
    telling = dcmread(io.BytesIO(phantom.phantom_study(patient=1, study=2)[0]))
    telling.AccessionNumber = telling.InstanceNumber = "847362"
    out = io.BytesIO()
    telling.save_as(out)
    pushed.push([out.getvalue()])
    report = pushed.night()
    assert (sum(report.quarantined.values()), report.let_go) == (1, 1)
    assert pushed.here() == []


def test_a_landing_that_was_cleared_by_hand_stands_in_nobodys_way(pushed):
    pushed.push(STUDY)
    pushed.night()
    for shelf in landings.folder("pushed", pushed.zones).iterdir():
        shutil.rmtree(shelf)
    assert erase.erase("main", patient_of(STUDY, pushed), zones=pushed.zones).complete


def test_days_that_are_no_number_are_refused_before_anything_is_done(pushed, monkeypatch):
    monkeypatch.setenv(prune.DAYS_VARIABLE, "soon")
    pushed.push(STUDY)
    with pytest.raises(InvalidRequest, match="whole number"):
        pushed.night()
    assert not (pushed.zones.pseudonymised / "collection").exists()


def patient_of(study: list[bytes], pushed: Pushed) -> str:
    table = read.table(store.head("main", zones=pushed.zones), zones=pushed.zones)
    (patient,) = set(table.loc[table["source_sha256"].isin([sha256_hex(one) for one in study]), "patient_key"])
    return str(patient)
