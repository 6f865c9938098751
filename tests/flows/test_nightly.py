"""The night, run as a person runs it: publishes, pulls, survives kill -9, leaks nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import zarr

from medgan.settings import Zones
from tasks.metrics import ROOTS, Site
from tests.flows.conftest import PATIENTS, ROOT, clean_environment
from tests.promises.sweep import dated, residue

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]


def _versions(site):
    index = site.workspace / "published/registry/index.json"
    folder = site.workspace / "published/registry/chest-xray"
    listed = index.read_text() if index.exists() else ""
    return sorted(p.name for p in folder.iterdir() if p.name in listed) if folder.exists() else []


def test_a_night_publishes_a_version_and_says_so(site, first_night):
    assert first_night.returncode == 0, first_night.stderr[-3000:]
    assert "published chest-xray@" in first_night.stdout
    assert f"{PATIENTS:,}" in first_night.stdout
    assert _versions(site)[0] == "1.0.0"


def test_a_release_opens_with_plain_zarr_and_pandas(site, first_night):
    folder = site.workspace / "published/registry/chest-xray" / _versions(site)[0]
    images = zarr.open_group(folder / "images.zarr", mode="r")["images"]
    labels = pd.read_parquet(folder / "labels.parquet")
    assert images.shape == (256, 32, 32)
    assert images.dtype == "uint16"
    assert len(labels) == 256
    assert set(labels["class"]) == {"normal", "pneumonia"}
    assert images[:].std() > 0


def test_the_printed_line_pulls_the_version(site, first_night, tmp_path):
    line = next(line for line in first_night.stdout.splitlines() if "medgan pull" in line)
    command = line.split("pull it", 1)[1].split()
    environment = clean_environment() | {"MEDGAN_HOME": str(tmp_path / "home")}
    pulled = subprocess.run(
        [sys.executable, "-m", "medgan.cli", *command[1:]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert pulled.returncode == 0, pulled.stderr


def test_no_planted_identifier_is_anywhere_under_the_workspace_or_in_the_output(site, first_night):
    needles = site.planted.needles
    assert len(needles) > 5 * PATIENTS
    output = site.folder / "output"
    output.mkdir(exist_ok=True)
    (output / "night.log").write_text(first_night.stdout + first_night.stderr)
    assert residue(site.workspace, needles) == {}
    assert residue(output, needles) == {}
    assert len(site.planted.dates) > PATIENTS / 2
    # Prefect writes the texts of its own blocks into its database; one of them quotes an API version that is a date.
    prefects_own = dated(Path(find_spec("prefect").submodule_search_locations[0]), site.planted.dates)
    assert len(prefects_own) < len(site.planted.dates) / 20
    assert dated(site.workspace, set(site.planted.dates) - set(prefects_own)) == {}


def test_the_sweep_finds_one_name_that_is_let_through(site, first_night, tmp_path):
    name = min(site.planted.needles)
    (tmp_path / "leak.bin").write_bytes(b"\0\1" + name.encode("utf-16-le") + b"\2")
    assert residue(tmp_path, site.planted.needles)[name] == ["leak.bin"]


def test_prefect_keeps_the_runs_and_counts_but_no_path_of_the_archive(site, first_night):
    databases = list((site.workspace / "prefect").rglob("*.db"))
    assert databases, "the night ran without Prefect"
    raw = b"".join(p.read_bytes() for d in databases for p in d.parent.glob(d.name + "*"))
    assert b"nightly" in raw
    assert str(site.archive).encode() not in raw


def test_prometheus_is_told_of_the_night_by_names_and_numbers_only(site, first_night):
    families = {family.name: family for family in Site(Zones.under(site.workspace)).collect()}
    (night,) = families["medgan_nights"].samples
    assert (night.labels, night.value) == ({"dataset": "chest-xray", "outcome": "published"}, 1)
    held = {sample.labels["of"]: sample.value for sample in families["medgan_collection"].samples}
    assert 0.9 * PATIENTS < held["patients"] <= held["instances"]
    assert families["medgan_release_images"].samples[0].value == 256
    assert families["medgan_index_expires_timestamp_seconds"].samples[0].value > time.time()
    assert {s.labels["zone"] for s in families["medgan_zone_free_bytes"].samples} == set(ROOTS)


def test_the_doctor_finds_a_site_healthy_and_says_what_an_empty_one_lacks(site, first_night, tmp_path):
    well = site.run("doctor", "--workspace", str(site.workspace))
    assert "FIX" not in well.stdout, well.stdout
    assert well.returncode == 0
    ill = site.run("doctor", "--workspace", str(tmp_path))
    assert ill.returncode == 1
    wrong = {line.split()[1] for line in ill.stdout.splitlines() if line.startswith("FIX")}
    assert {"pseudonym", "sources"} <= wrong
    assert "medgan key new" in ill.stdout
    assert "medgan source add" in ill.stdout
    assert not list(tmp_path.iterdir()), "a doctor writes nothing"


def test_a_generator_that_copies_training_images_is_refused_and_nothing_is_published(site, first_night):
    before = _versions(site)
    night = site.nightly("--kimg", "0.5", module="tests.flows.copying_night")
    assert night.returncode == 6, night.stderr[-3000:]
    assert "privacy-refused" in night.stderr
    assert "published" not in night.stdout
    assert _versions(site) == before
    ledger = sorted((site.workspace / "pseudonymised/nights/chest-xray").glob("*.json"))
    assert json.loads(ledger[-1].read_text())["outcome"] == "privacy-refused"


def test_a_killed_night_finishes_on_the_next_start_with_nothing_half_published(site, first_night):
    before = _versions(site)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "nightly", "--archive", str(site.archive), "--workspace", str(site.workspace),
         "--site", str(site.parameters)],
        cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    models = site.workspace / "pseudonymised/models"
    known = set(models.glob("mo-*"))
    deadline = time.monotonic() + 600
    while set(models.glob("mo-*")) == known and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert set(models.glob("mo-*")) != known, "the night was killed before it began to train"
    assert _versions(site) == before

    again = site.nightly()
    assert again.returncode == 0, again.stderr[-3000:]
    assert len(_versions(site)) == len(before) + 1
    nights = sorted((site.workspace / "pseudonymised/nights/chest-xray").glob("*.json"))
    assert [json.loads(p.read_text())["night"]["number"] for p in nights] == list(range(1, len(nights) + 1))


@pytest.mark.parametrize("kind", ["missing", "empty folder", "no DICOM", "broken zip"])
def test_unusable_input_is_one_sentence_and_exit_status_2_with_nothing_written(site, tmp_path, kind):
    archive = tmp_path / "archive"
    match kind:
        case "empty folder":
            archive.mkdir()
        case "no DICOM":
            archive.mkdir()
            (archive / "notes.txt").write_text("nothing to see")
        case "broken zip":
            archive.with_suffix(".zip").write_bytes(b"PK\3\4 and then nothing")
            archive = archive.with_suffix(".zip")
    workspace = tmp_path / "workspace"
    run = site.run(
        *("nightly", "--archive", str(archive), "--workspace", str(workspace), "--site", str(site.parameters)),
    )
    assert run.returncode == 2, run.stderr
    assert len(" ".join(run.stderr.split()).split(". ")) <= 2
    assert "Traceback" not in run.stderr
    assert not workspace.exists()
