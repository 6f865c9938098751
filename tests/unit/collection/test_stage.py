"""What the machine refuses is not held against a file: the batch is given up, or the file is tried again."""

import errno
import resource
from dataclasses import replace
from functools import partial

import pytest

from medgan import keys
from medgan.archive import guard, instance, intake, quarantine, scan, sources
from medgan.collection import faces, judgement, layout, stage, staging
from medgan.collection.staging import Batch
from medgan.deid import profile
from medgan.errors import BadInstance, InvalidRequest, StoreUnavailable
from tests.unit.archive.builders import rebuilt, write_files

SIDE = 300


@pytest.fixture
def batch(tmp_path, zones):
    """Three instances whose frames are larger than anything else that is written of them."""
    keyring = keys.load(zones.pseudonym_key)
    image = [(0x00280010, "US", SIDE), (0x00280011, "US", SIDE), (0x7FE00010, "OW", bytes(2 * SIDE * SIDE))]
    files = {f"{n}.dcm": rebuilt([(0x00080018, "UI", f"2.25.{n}"), *image]) for n in range(5, 8)}
    ref = sources.register(write_files(tmp_path / "in", files), zones=zones, keyring=keyring)
    report = scan.scan(ref, zones=zones, keyring=keyring)
    found = intake.load(report.scan_id, zones=zones, keyring=keyring)
    return Batch.of([(study.key.key, one) for study in found.studies for one in study.instances], context={})


@pytest.fixture
def context(zones):
    folder = layout.staging("main", zones=zones)
    judged_by = judgement.rules(profile.load("basic").digest)
    return stage.StageContext(
        zones=zones, key_handle=zones.pseudonym_key, profile="basic", folder=folder, judged_by=judged_by
    )


def test_a_disk_that_fills_up_costs_the_batch_and_no_instance(batch, context, zones):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * SIDE * SIDE, limits[1]))  # the second frame does not fit
        with pytest.raises(StoreUnavailable):
            stage.run(batch, context)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert quarantine.recorded(zones) == set()
    stage.run(batch, context)
    folder = context.folder / batch.name
    assert len(staging.rows([folder])) == 3
    assert staging.refused(folder) == {}


def test_a_worker_of_another_version_de_identifies_nothing(batch, context):
    """What a later version would remove is not let out by a worker that nobody brought up to date."""
    with pytest.raises(InvalidRequest, match="another version"):
        stage.run(batch, replace(context, judged_by="0" * 64))
    assert not (context.folder / batch.name).exists()


def test_a_worker_of_another_version_looks_for_no_face(batch, zones):
    agree = partial(judgement.agree, "profile", "0" * 64)
    with pytest.raises(InvalidRequest, match="another version"):
        faces.of_study(batch.locators, zones=zones, key_handle=zones.pseudonym_key, agree=agree)


def test_an_instance_that_this_machine_could_not_work_on_is_tried_again(batch, context, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files", "/archive/DOE_JANE")

    monkeypatch.setattr(instance, "read", refuse)
    stage.run(batch, context)
    assert set(staging.refused(context.folder / batch.name).values()) == {"CHANGED_WHILE_READ"}


def test_where_no_decoder_can_be_started_the_file_is_not_called_corrupt(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(guard.subprocess, "Popen", refuse)
    with pytest.raises(BadInstance, match="TIMEOUT"):
        guard._Child().decode("1.2.840.10008.1.2.5", [b""], None)
