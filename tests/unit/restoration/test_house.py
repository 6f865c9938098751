"""Restorers learned from a collection, and registered sources restored inside the identified zone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from medgan import keys
from medgan.archive import quarantine, sources
from medgan.collection import durable, layout, read
from medgan.errors import Conflict, InvalidRequest
from medgan.gan.repair import Restorer
from medgan.records import RestorerRequest
from medgan.restoration import learn, run
from medgan.settings import Zones
from tests.builders.cohort import commit, radiographs, xray_rows


@pytest.fixture
def zones(tmp_path):
    return Zones.under(tmp_path / "house")


def test_a_collection_teaches_and_the_same_request_gives_the_same_restorer(zones):
    pixels, labels = radiographs(24)
    padded = np.pad(pixels, ((0, 0), (6, 6), (6, 6)), mode="edge")
    snapshot = commit(xray_rows(padded, labels), padded, zones)
    request = RestorerRequest(task="denoise", modality="DX", steps=2, adversarial_steps=1, most_images=16)
    seen = []
    made = learn.train(snapshot, request, zones=zones, on_progress=lambda *done: seen.append(done))
    assert seen[-1] == (3, 3)
    assert (made.images, made.patients) == (16, 16)
    assert Restorer(learn.restorer_folder(made.restorer, zones=zones)).sha256 == made.weights_sha256
    assert learn.train(snapshot, request, zones=zones) == made
    learned_from = json.loads((learn.restorer_folder(made.restorer, zones=zones) / layout.LEARNED_FROM).read_bytes())
    assert (len(learned_from), set(learned_from) < set(read.table(snapshot, zones=zones)["patient_key"])) == (16, True)
    folder = learn.restorer_folder(made.restorer, zones=zones)
    (folder / learn.RECORD).unlink()
    with durable.locked(folder.parent / ".locks" / folder.name), pytest.raises(Conflict):
        learn.train(snapshot, request, zones=zones)
    (folder / ".state.safetensors.7.partial").write_bytes(b"weights of a killed run")
    assert learn.train(snapshot, request, zones=zones) == made
    assert not list(folder.glob(".*"))
    with pytest.raises(InvalidRequest, match="no grey image of modality CT"):
        learn.train(snapshot, request.model_copy(update={"modality": "CT"}), zones=zones)


def test_a_registered_source_is_restored_in_its_own_zone_and_refusals_have_records(zones, archive, twice):
    handle = "rs-" + "a" * 32
    shutil.copytree(twice.folder, learn.restorer_folder(handle, zones=zones))
    keys.create(zones.keys / "pseudonym.key")
    keyring = keys.load(zones.pseudonym_key)
    ref = sources.register(archive, zones=zones, keyring=keyring, name="scanner-7")
    report = run.restore_source(ref, handle, zones=zones, keyring=keyring)
    assert report.restored == 3
    out = zones.identified / "restored" / "scanner-7" / handle
    assert len(list((out / "uncertainty").rglob("*.dcm"))) == 3
    records = list(quarantine.folder(zones).glob("*.json"))
    assert len(records) == sum(report.quarantined.values()) == 4
    assert run.restore_source(ref, handle, zones=zones, keyring=keyring) == report


@pytest.mark.parametrize("handle", ["../../etc", "rs-zz", "mo-" + "a" * 32])
def test_a_handle_is_never_a_path(zones, handle):
    with pytest.raises(InvalidRequest, match="handle"):
        learn.restorer_folder(handle, zones=zones)
