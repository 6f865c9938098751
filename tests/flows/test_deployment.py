"""A real Prefect server, `prefect deploy --all`, a worker: the nightly is scheduled, and a triggered one publishes."""

from __future__ import annotations

import http
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.flows.conftest import ROOT, SITE, Site, clean_environment
from tests.promises.sweep import residue

pytestmark = [pytest.mark.slow, pytest.mark.server]

PREFECT = [sys.executable, "-m", "prefect"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _call(url: str, body: dict | None = None):
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})  # noqa: S310 - loopback
    data = None if body is None else json.dumps(body).encode()
    for pause in (0.5, 1.0, 2.0, 4.0, 8.0, None):
        try:
            with urllib.request.urlopen(request, data=data, timeout=30) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            # SQLite was busy: Prefect rolls the request back and asks for another try, as its own client makes.
            if refused.code != http.HTTPStatus.SERVICE_UNAVAILABLE or pause is None:
                raise
            refused.close()
            time.sleep(pause)
    raise AssertionError


def _wait(what: str, probe, seconds: float):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = probe()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def _stop(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Server:
    """A Prefect server on loopback with its own home, and commands that talk to it."""

    def __init__(self, site: Site) -> None:
        self.port = _free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.home = site.workspace / "server"
        self.log = site.folder / "server.log"
        self.environment = clean_environment() | {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "MEDGAN_WORKSPACE": str(site.workspace),
            "MEDGAN_HOME_DIR": str(ROOT),
        }

    def start(self, *command: str) -> subprocess.Popen:
        """Start `prefect COMMAND` in a session of its own, its output in the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*PREFECT, *command], cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, *command: str) -> str:
        """Run `prefect COMMAND` to its end."""
        done = subprocess.run(
            [*PREFECT, "--no-prompt", *command],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def deployed(site: Site, first_night) -> Iterator[Server]:
    """The server with every deployment of deployments/prefect.yaml, and a worker on the pool."""
    from medgan import keys
    from medgan.archive import sources
    from medgan.settings import Zones

    zones = Zones.under(site.workspace)
    sources.register(site.archive, zones=zones, keyring=keys.load(zones.pseudonym_key), name="main")
    server = Server(site)
    process = server.start("server", "start", "--host", "127.0.0.1", "--port", str(server.port))
    try:
        _wait("server", lambda: _call(f"{server.api}/health"), 120)
        server.run("work-pool", "create", "medgan", "--type", "process")
        server.run("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
        worker = server.start("worker", "start", "--pool", "medgan", "--type", "process")
        try:
            yield server
        finally:
            _stop(worker)
    finally:
        _stop(process)


def test_the_nightly_is_really_scheduled(deployed):
    def scheduled():
        runs = _call(f"{deployed.api}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        return [run for run in runs if run["auto_scheduled"]]

    assert _wait("a scheduled run", scheduled, 60)


def test_bad_parameters_are_refused_before_a_run_exists(deployed):
    deployment = _call(f"{deployed.api}/deployments/name/nightly/nightly")
    body = {"parameters": {**deployment["parameters"], "spec": {"images": -1}}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        _call(f"{deployed.api}/deployments/{deployment['id']}/create_flow_run", body)
    refused.value.close()
    assert refused.value.code in {409, 422}


def test_a_triggered_night_publishes_and_leaves_no_identifier_in_the_database(deployed, site):
    deployment = _call(f"{deployed.api}/deployments/name/nightly/nightly")
    parameters = {**deployment["parameters"], "training": SITE["training"], "spec": SITE["spec"]}
    run = _call(f"{deployed.api}/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})

    def finished():
        state = _call(f"{deployed.api}/flow_runs/{run['id']}")["state_type"]
        return state if state in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    assert _wait("the triggered night", finished, 240) == "COMPLETED", deployed.log.read_text()[-3000:]
    artifacts = _call(f"{deployed.api}/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert {"night", "grid"} <= {artifact["key"] for artifact in artifacts}
    assert residue(Path(deployed.home), site.planted.needles) == {}


def test_a_night_that_fails_with_identifiers_in_hand_leaves_none_in_the_database(deployed, site):
    deployment = _call(f"{deployed.api}/deployments/name/ingest/ingest")
    body = {"parameters": {"archive": {"source": "never-registered"}}}
    run = _call(f"{deployed.api}/deployments/{deployment['id']}/create_flow_run", body)
    state = _wait(
        "the failing run",
        lambda: (s := _call(f"{deployed.api}/flow_runs/{run['id']}")["state"])["type"] == "FAILED" and s,
        180,
    )
    assert "never-registered" not in (state["message"] or "")
    assert residue(Path(deployed.home), site.planted.needles) == {}


def test_the_deployed_night_is_the_demo_night():
    deployed = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"][0]["parameters"]
    demo = yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text())
    assert {key: value for key, value in deployed.items() if key != "archive"} == demo
