"""A registry in S3 over HTTP (moto's server on loopback): probe, publish, race, pull, lazy reading, catalogue."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
from datetime import UTC, datetime
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pandas as pd
import pytest

import medgan
from medgan.client import pull as pulls
from medgan.collection import erase
from medgan.errors import Conflict, IntegrityError, StoreUnavailable
from medgan.release import publish, retract, stores
from medgan.settings import Zones
from tasks import doctor, metrics
from tests.builders import browser as browsers
from tests.builders import release as build
from tests.builders import servers
from tests.builders.cohort import handle
from tests.builders.published import published, template

__all__ = ["published", "template"]
pytestmark = pytest.mark.server
pytest.importorskip("obstore")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
BUCKET = "released"


def ask(method, address):
    with urlopen(Request(address, method=method), timeout=30) as answer:  # noqa: S310 - loopback
        return answer.read()


@pytest.fixture(scope="module")
def server(module_servers):
    port = servers.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    module_servers.start("s3", command, ready=lambda: servers.listening(port))
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def bucket(server, published, monkeypatch):
    """An empty bucket that the environment points to; gives the registry's address."""
    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    ask("POST", f"{server}/moto-api/reset")
    ask("PUT", f"{server}/{BUCKET}")
    address = f"s3://{BUCKET}/registry"
    monkeypatch.setenv("MEDGAN_REGISTRY_ROOT", address)
    return address


def test_published_pulled_approved_and_withdrawn_over_s3(bucket, published, tmp_path):
    release = publish.publish(published.built.cleared, build.request(), zones=published.zones)
    assert release == published.release  # the same bytes as in a folder
    folder = pulls.pull("chest-demo", registry=bucket, trust=published.key, now=NOW, cache=tmp_path / "cache")
    assert np.array_equal(medgan.open_folder(folder).images, published.built.images)
    lazy = medgan.load("chest-demo", registry=bucket, lazy=True, now=NOW, cache=tmp_path / "lazy")
    assert np.array_equal(pickle.loads(pickle.dumps(lazy.reader)).gather([1050, 3]), lazy.images[[1050, 3]])  # noqa: S301
    assert np.array_equal(lazy.images, published.built.images)
    other = build.synthetic_cohort(published.zones, start=1500, count=40)
    second = build.request(night=2, created="2026-11-21T22:00:00Z")
    assert publish.publish(other.cleared, second, zones=published.zones).version == "2.0.0"
    assert publish.publish(other.cleared, second, zones=published.zones).version == "2.0.0"
    retract.withdraw("chest-demo@2.0.0", "labels were swapped", zones=published.zones, now=NOW)
    with pytest.raises(IntegrityError, match="labels were swapped"):
        pulls.pull("chest-demo@2.0.0", registry=bucket, now=NOW)


def _publish(workspace, start, night, results):
    zones = Zones.under(workspace)
    cohort = build.synthetic_cohort(zones, start=start, count=30).cleared
    request = build.request(night=night, created=f"2026-11-2{night}T22:00:00Z")
    results.put(("ready", None))
    try:
        results.put(("published", publish.publish(cohort, request, zones=zones).version))
    except Conflict as conflict:
        results.put(("conflict", str(conflict)))


def test_two_machines_publishing_at_once_never_lose_a_version(bucket, published, tmp_path):
    """Two processes with staging folders of their own: each publishes or is told of a conflict; none is lost."""
    publish.publish(build.synthetic_cohort(published.zones, count=20).cleared, build.request(), zones=published.zones)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = []
    for number in (2, 3):
        workspace = tmp_path / f"machine-{number}"
        keys = Zones.under(workspace).keys
        keys.mkdir(parents=True)
        (keys / "pipeline.key").write_bytes(published.zones.signing_key.read_bytes())
        (keys / "pipeline.key").chmod(0o600)
        racers.append(context.Process(target=_publish, args=(workspace, 700 * number, number, results)))
    for racer in racers:
        racer.start()
    told = [results.get(timeout=120) for _ in range(4)]
    for racer in racers:
        racer.join(60)
    made = sorted(value for kind, value in told if kind == "published")
    conflicts = [value for kind, value in told if kind == "conflict"]
    assert made
    assert len(made) + len(conflicts) == 2
    assert all("another publisher" in words for words in conflicts)
    versions = [
        held.version for entry in medgan.versions(registry=bucket, trust=published.key) for held in entry.versions
    ]
    assert versions == ["1.0.0", *made]
    for number in made:
        pulls.pull(f"chest-demo@{number}", registry=bucket, cache=tmp_path / "cache")


def test_probe_accepts_this_store_and_leaves_nothing(bucket, published, server):
    store = stores.open_store(published.zones)
    assert store.versions("chest-demo") == []
    assert b"<Contents>" not in ask("GET", f"{server}/{BUCKET}?list-type=2")


def test_missing_bucket_is_one_clear_sentence_without_its_address(bucket, published, monkeypatch):
    monkeypatch.setenv("MEDGAN_REGISTRY_ROOT", "s3://nowhere/registry")
    with pytest.raises(StoreUnavailable) as caught:
        publish.publish(published.built.cleared, build.request(), zones=published.zones)
    assert "nowhere" not in str(caught.value)


def test_doctor_metrics_and_an_erasure_look_into_the_bucket(bucket, published, server):
    zones, client = published.zones, boto3.client("s3", endpoint_url=server)

    def registry() -> tuple[bool, str, float]:
        ((well, said),) = ((well, said) for well, what, said in doctor.examine(zones) if what == "registry")
        gauges = {family.name: [sample.value for sample in family.samples] for family in metrics.Site(zones).collect()}
        assert gauges["medgan_release_images"] == ([published.release.images] if well and "good until" in said else [])
        return well, said, gauges["medgan_registry_unreadable"][0]

    assert registry() == (True, "nothing is published yet", 0)
    publish.publish(published.built.cleared, build.request(), zones=zones)
    assert registry()[::2] == (True, 0)
    patient = handle("pt", 1)
    made = json.loads((published.built.folder / "synthetic.json").read_bytes())
    folder = zones.pseudonymised / "cohorts" / made["cohort"]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"patient_key": [patient]}).to_parquet(folder / "table.parquet")
    assert erase.affected(patient, zones=zones).releases == ("chest-demo@1.0.0",)
    client.put_object(Bucket=BUCKET, Key="registry/index.json", Body=b"{")
    well, said, unreadable = registry()
    assert (well, unreadable) == (False, 1)
    assert "restore" in said


def test_a_runs_page_shows_the_pictures_of_a_version_in_the_bucket(bucket, published, monkeypatch):
    from tasks import summary

    monkeypatch.setenv("MEDGAN_WORKSPACE", str(published.zones.pseudonymised.parent))
    release = publish.publish(published.built.cleared, build.request(), zones=published.zones)
    pictures = summary.previews(release)
    monkeypatch.delenv("MEDGAN_REGISTRY_ROOT")
    assert pictures == summary.previews(release), "as from the folder it was published to before"
    assert {path.stem for path, _ in pictures} == {"cover", "class-0", "class-1"}
    assert all(body[:4] in {b"RIFF", b"\x89PNG"} for _, body in pictures)


@pytest.mark.skipif(
    browsers.program() is None and "MEDGAN_REQUIRE_TOOLS" not in os.environ, reason="no Chromium on this machine"
)
def test_catalogue_works_from_the_bucket_itself(bucket, published, server):
    publish.publish(published.built.cleared, build.request(), zones=published.zones)
    everyone = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:HeadObject"],
        "Resource": f"arn:aws:s3:::{BUCKET}/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everyone]})
    boto3.client("s3", endpoint_url=server).put_bucket_policy(Bucket=BUCKET, Policy=policy)
    with browsers.Browser() as tab:
        tab.open(f"{server}/{BUCKET}/registry/index.html")
        tab.run("document.querySelector('.set h2 a').click()")
        tab.until("document.readyState === 'complete' && document.querySelectorAll('.tile').length === 128")
        assert tab.run("document.querySelector('#status').textContent") == "active"
        tab.run("document.querySelector('.tile').click()")
        tab.until("document.querySelector('#source').textContent !== ''")
        assert tab.run("document.querySelector('#source').textContent") == "Stored pixels, read live and checked"
        assert tab.problems == []
        assert all(address.startswith((server, "data:", "about:")) for address in tab.requests)
