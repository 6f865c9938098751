"""A publication killed or refused at any step: readers see whole versions only, and the next run finishes it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from datetime import UTC, datetime

import pytest

from medgan.client import trust as trusts
from medgan.client import verify
from medgan.records import Index
from medgan.release import publish
from tests.builders import faults
from tests.builders import release as build

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SECOND = build.request(night=2, created="2026-11-21T22:00:00Z")


STRIDE = int(os.environ.get("MEDGAN_FAULT_STRIDE", "9"))
"""Every how many-th step is tried; 1 sweeps them all (minutes)."""


def swept(total, kill):
    """Steps to try: some of the staging, and for kills every one of the last ten, where visibility changes."""
    if STRIDE == 1:
        return range(1, total + 1)
    last = range(total - 9, total + 1) if kill else ()
    return sorted({*range(3 if kill else 7, total + 1, STRIDE if kill else 2 * STRIDE), *last})


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def visible(registry, pem):
    """Verify everything a reader can find through the signed index; gives the versions."""
    body = trusts.open_envelope(
        (registry / "index.json.dsse").read_bytes(), kind=trusts.INDEX_TYPE, keys=(pem,), what="index"
    )
    versions = [(entry.name, held) for entry in Index.model_validate_json(body).datasets for held in entry.versions]
    for name, held in versions:
        verify.verify_folder(registry / name / held.version, keys=(pem,), name=name, version=held.version)
    return [held.version for _, held in versions]


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "disk refuses"])
def test_publication_stopped_at_any_step_is_never_half_visible_and_is_finished_by_the_next_run(
    published, tmp_path, kill
):
    second = build.synthetic_cohort(published.zones, start=1500, count=40).cleared
    reference = tmp_path / "reference"
    shutil.copytree(published.zones.published.parent, reference)
    total = faults.steps(second, SECOND, reference)
    expected = tree(reference / "published")
    assert total > 60
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.builders.faults"])
    pem = published.key.read_text()
    half = 0
    for step in swept(total, kill):
        workspace = tmp_path / f"at-{step}"
        shutil.copytree(published.zones.published.parent, workspace)
        child = context.Process(target=faults.publish_until, args=(second, SECOND, workspace, step, kill))
        child.start()
        child.join(240)  # a loaded machine is no fault
        assert child.exitcode in ({faults.KILLED} if kill else {faults.REFUSED, 0}), (step, child.exitcode)
        registry = workspace / "published" / "registry"
        seen = visible(registry, pem)
        assert seen in (["1.0.0"], ["1.0.0", "2.0.0"])
        half += seen == ["1.0.0"]
        release = publish.publish(second, SECOND, zones=published.zones.under(workspace))
        assert release.version == "2.0.0"
        assert visible(registry, pem) == ["1.0.0", "2.0.0"]
        assert tree(workspace / "published") == expected
        shutil.rmtree(workspace)
    assert half


def test_reader_polling_while_versions_are_published_never_sees_one_that_does_not_verify(published):
    pem, registry = published.key.read_text(), published.zones.registry
    stop, seen, problems = threading.Event(), [], []

    def poll():
        while not stop.wait(0.02):
            try:
                seen.append(tuple(visible(registry, pem)))
            except Exception as problem:  # noqa: BLE001 - whatever it is, the test must show it
                problems.append(problem)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for night in range(2, 6):
            cohort = build.synthetic_cohort(published.zones, start=100 * night, count=60)
            request = build.request(night=night, created=f"2026-11-2{night}T22:00:00Z")
            publish.publish(cohort.cleared, request, zones=published.zones)
    finally:
        stop.set()
        reader.join()
    assert not problems
    assert len(seen) >= 3
