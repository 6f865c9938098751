"""A whole site as processes on loopback: the night fires by itself, publishes, and leaves no identifier behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from medgan import keys, night
from medgan.archive import place, sources
from medgan.archive.phantom import phantom_study
from medgan.collection import durable, layout, read, store
from medgan.records import Choice, TrainAt
from medgan.settings import Zones
from tasks.events import Server
from tests.builders.browser import Browser
from tests.builders.servers import wait_until
from tests.builders.topology import ROOT, Topology, fill, small_site, topology
from tests.builders.web import Receiver, receiving
from tests.promises.sweep import residue

if TYPE_CHECKING:
    from medgan.archive.phantom import Planted

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]

NIGHT = "nightly/small"
NAMED = "DOE^JANE-4711"
"""A patient's name that stands in the path of an archive, and as the name of a file that arrives."""
SECRET = "b7e151628aed2a6abf71"  # noqa: S105
"""Part of the address that notices are posted to."""


@dataclass(frozen=True, slots=True)
class Running:
    """The site and what was planted into its archive."""

    site: Topology
    planted: Planted
    notices: Receiver
    incoming: Path

    @property
    def needles(self) -> list[str]:
        return [*self.planted.needles, NAMED, SECRET]

    def notice_of(self, run: str) -> dict[str, str]:
        """What the receiver was told of a run, once it has been."""

        def told() -> str | None:
            return next((text for text in self.notices.received if run in text), None)

        return json.loads(wait_until("a notice", told))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tool) -> Iterator[Running]:
    """Everything up and deployed, the night scheduled for the next full minute; workers are not started yet."""
    for program in ("nginx", "postgres", "openssl"):
        tool(program)
    folder = tmp_path_factory.mktemp("topology")
    with topology(folder) as site, receiving() as notices:
        planted = fill(site)
        zones = Zones.under(site.workspace)
        gone, incoming = folder / NAMED, folder / "incoming"
        gone.mkdir()
        incoming.mkdir()
        drop = place.parse(f"drop:{incoming}?settle=1")
        for name, where in (("gone", gone), ("incoming", drop)):
            sources.register(where, zones=zones, keyring=keys.load(zones.pseudonym_key), name=name)
        gone.rmdir()
        nights = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "train_at": TrainAt.POOL.value}
        site.deploy(small_site(folder / "small.yaml", **nights), webhook=f"{notices.address}/{SECRET}")
        yield Running(site, planted, notices, incoming)


@pytest.fixture(scope="module")
def first_run(running: Running) -> dict:
    """The run that the schedule started; further ones are called off."""
    site = running.site
    for pool in ("medgan", "medgan-gpu"):
        site.start_worker(pool)

    def started():
        fired = [run for run in site.runs(NIGHT) if run["auto_scheduled"] and run["start_time"]]
        return fired[-1] if fired else None

    run = wait_until("a scheduled run that starts by itself", started)
    deployment = site.call(f"/deployments/name/{NIGHT}")
    for schedule in deployment["schedules"]:
        site.call(f"/deployments/{deployment['id']}/schedules/{schedule['id']}", method="DELETE")
    for other in site.runs(NIGHT):
        if other["id"] != run["id"]:
            site.call(f"/flow_runs/{other['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    return run


@pytest.fixture(scope="module")
def struck(running: Running, first_run: dict) -> str:
    """A night whose worker was killed -9 while it ingested. Until somebody notices there is time for other tests."""
    site = running.site
    site.finished(first_run["id"])
    site.call_dead_after(90)  # three heartbeats
    # Another length, because the same training on the same archive would be found finished and not begin.
    training = {"recipe": "xray_32_cpu", "total_kimg": 16}
    killed = site.trigger(NIGHT, dataset="killed", collection="killed", train_at=TrainAt.HERE.value, training=training)
    staged = site.workspace / "pseudonymised/collection/killed.staging"
    wait_until("an ingest under way", lambda: staged.is_dir() and any(staged.iterdir()))
    site.servers.kill("worker-medgan")
    assert site.state(killed)["type"] == "RUNNING", "nobody has noticed yet"
    site.start_worker()
    return killed


def test_the_api_is_closed_without_the_password(running):
    with pytest.raises(urllib.error.HTTPError) as refused:
        running.site.call("/flow_runs/filter", {}, password="guessed")  # noqa: S106
    refused.value.close()
    assert refused.value.code == 401


def test_dask_takes_nobody_without_its_certificate(running):
    stranger = "import sys; from distributed import Client; Client(sys.argv[1], timeout=5)"
    plain = {k: v for k, v in running.site.environment.items() if not k.startswith("DASK_")}
    for address in ("tcp://127.0.0.1:{}", "tls://127.0.0.1:{}"):
        command = [sys.executable, "-c", stranger, address.format(running.site.ports["dask"])]
        assert subprocess.run(command, env=plain, capture_output=True, check=False).returncode


def test_bad_parameters_are_refused_before_a_run_exists(running):
    before = len(running.site.runs(NIGHT))
    with pytest.raises(urllib.error.HTTPError) as refused:
        running.site.trigger(NIGHT, spec={"images": -1})
    refused.value.close()
    assert refused.value.code in {409, 422}
    assert len([run for run in running.site.runs(NIGHT) if not run["auto_scheduled"]]) <= before


def test_a_scheduled_night_fires_by_itself_and_publishes(running, first_run):
    site = running.site
    state = site.finished(first_run["id"])
    assert state["type"] == "COMPLETED", state["message"]
    assert site.versions("chest-xray") == ["1.0.0"]
    artifacts = site.call("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [first_run["id"]]}}})
    assert {"night", "grid"} <= {artifact["key"] for artifact in artifacts}


def test_a_night_is_some_tens_of_tasks(running, first_run):
    running.site.finished(first_run["id"])
    assert 5 <= running.site.call("/task_runs/count", {}) <= 40


def test_the_doctor_sees_that_the_schedule_is_gone_and_that_a_password_is_wrong(running, first_run):
    site = running.site
    site.finished(first_run["id"])

    def ills(**told: str) -> dict[str, str]:
        command = [sys.executable, "-m", "flows", "doctor", "--workspace", str(site.workspace)]
        done = subprocess.run(
            command, cwd=ROOT, env=site.environment | told, capture_output=True, text=True, check=False
        )
        assert "2 workers answer" in done.stdout, done.stdout + done.stderr
        return {line[5:20].strip(): line[20:] for line in done.stdout.splitlines() if line.startswith("FIX")}

    assert {what: said[:24] for what, said in ills().items()} == {
        "deployments": "no night is scheduled: i",
        "sources": "gone: not there any more",
    }
    assert "refuses us" in ills(PREFECT_API_AUTH_STRING="medgan:guessed")["Prefect"]


def test_somebody_is_told_of_a_failed_night_with_a_link_and_no_more(running, first_run):
    site = running.site
    site.finished(first_run["id"])
    failed = site.trigger(NIGHT, archive={"source": "gone"}, dataset="gone")
    assert site.finished(failed)["type"] == "FAILED"
    assert running.notice_of(failed) == {"text": f"medgan: nightly Failed\nFailed: {site.page(failed)}"}
    assert not [text for text in running.notices.received if first_run["id"] in text], "a good night is no news"


def test_what_a_person_cancels_stays_cancelled(running, struck):
    """An ingest, which would be started again if it died. It waits for another committer, so that it cannot end."""
    site = running.site
    with durable.locked(layout.lock("cancelled", zones=Zones.under(site.workspace))):
        run = site.trigger("ingest/ingest", archive={"source": "main"}, collection="cancelled")
        wait_until("an ingest under way", lambda: site.state(run)["type"] == "RUNNING")
        site.call(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        assert site.finished(run)["type"] == "CANCELLED"
    told = Server(address=site.api, password=f"medgan:{site.password}")
    assert told.acts_on_a_pulse(within_seconds=60), "whatever is done about a cancelled run has been done by now"
    after = site.patiently(f"/flow_runs/{run}")
    assert (after["state_type"], after["run_count"]) == ("CANCELLED", 1)


def test_the_catalogue_and_the_object_store_serve_the_version(running, struck, tmp_path):
    site = running.site
    catalogue, store = site.start_catalogue(), site.start_s3()
    with urlopen(f"{catalogue}/index.html") as page:  # noqa: S310 - loopback
        assert b"chest" in page.read()
    for hidden in ("/.staging", "/../keys/pseudonym.key", "/%2e%2e/keys/pseudonym.key"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urlopen(catalogue + hidden)  # noqa: S310
        refused.value.close()
        assert refused.value.code in {400, 404}
    trust = str(site.workspace / "keys/pipeline.pub")
    _mirror(site.workspace / "published/registry", store)
    for number, registry in enumerate((catalogue, f"{store}/released")):
        command = ["-m", "medgan.cli", "pull", "chest-xray@1.0.0", "--registry", registry, "--trust", trust]
        home = {"MEDGAN_HOME": str(tmp_path / str(number))}
        pulled = subprocess.run(
            [sys.executable, *command], env=site.environment | home, capture_output=True, text=True,
            cwd=ROOT, check=False,
        )  # fmt: skip
        assert pulled.returncode == 0, pulled.stderr


def test_a_person_decides_a_paused_run_by_a_form_that_offers_no_way_round_the_gate(running, struck):
    site = running.site
    (record,) = (site.workspace / "synthetic/cohorts").glob("*/privacy-record.json")
    command = [sys.executable, "-m", "tests.builders.asking", record, "2"]
    site.servers.start("asking", command, env=site.environment, cwd=ROOT)
    run = wait_until("the run", lambda: site.flow_runs("asking"))[0]["id"]

    def is_asked(question: str) -> bool:
        details = site.state(run)["state_details"]
        if details.get("pause_key") != question:
            return False
        form = {"prefix": details["run_input_keyset"]["schema"]}  # Prefect stores it a moment after the state
        return bool(site.call(f"/flow_runs/{run}/input/filter", form))

    def resume(question: str, **form: str) -> str:
        wait_until(question, lambda: is_asked(question))
        return site.call(f"/flow_runs/{run}/resume", {"run_input": form})["status"]

    asks = running.notice_of(run)["text"]
    assert asks == f"medgan: the gate asks\nA night waits for a decision: {site.page(run)}"
    again = Choice.JUDGE_AGAIN.value
    assert resume("gate-1-1-1", choice="publish it all the same") == "REJECT"
    assert resume("gate-1-1-1", choice=again, policy="none at all", ticket="DPO-7") == "REJECT"
    assert resume("gate-1-1-1", choice=again, policy="strict") == "ACCEPT"  # without a ticket: it is asked again
    assert resume("gate-1-1-2", choice=again, policy="strict", ticket="DPO-7") == "ACCEPT"
    assert resume("gate-1-2-1", choice=Choice.LEAVE.value) == "ACCEPT"
    assert site.finished(run)["type"] == "COMPLETED"
    said = [line for line in site.servers.log("asking").splitlines() if line[:2] in {"1:", "2:"}]
    assert said == ["1: JUDGE_AGAIN strict DPO-7", "2: LEAVE strict -"]


def test_an_arrival_starts_an_ingest_and_a_failing_one_says_no_path(running, struck):
    site = running.site
    resource = {"prefect.resource.id": "medgan.source.gone", "prefect.resource.name": "gone"}
    now = site.call("/admin/version") and subprocess.check_output(["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"], text=True)
    event = {"id": "7f000000-0000-4000-8000-000000000001", "occurred": now.strip(), "event": "medgan.archive.arrived"}
    site.call("/events", [{**event, "resource": resource, "related": [], "payload": {}}])

    def by_event():
        started = site.runs("ingest/ingest")
        return next((run for run in started if run["parameters"]["archive"] == {"source": "gone"}), None)

    run = wait_until("an ingest by event", by_event)
    state = site.finished(run["id"])
    assert state["type"] == "FAILED"
    assert NAMED not in state["message"]


def test_a_run_is_started_by_hand_in_the_browser(running, struck, tool):
    tool("chromium")
    site = running.site
    deployment = site.call("/deployments/name/retention/retention")
    page = f"{site.api.removesuffix('/api')}/deployments/deployment/{deployment['id']}/run"
    with Browser(width=1300, height=900) as tab:
        tab.open(page)
        tab.run(f"localStorage.setItem('prefect-password', '{site.token}')")
        tab.open(page)
        tab.until("[...document.querySelectorAll('button')].some(b => b.innerText.trim() === 'Submit')", seconds=120)
        tab.until("document.body.innerText.includes('Older states of the collection go too')", seconds=120)
        tab.run("[...document.querySelectorAll('button')].find(b => b.innerText.trim() === 'Submit').click()")

        def by_hand():  # its schedule has runs of its own, all of them later
            return next((run for run in site.runs("retention/retention") if not run["auto_scheduled"]), None)

        run = wait_until("a run by hand", by_hand)
    assert site.finished(run["id"])["type"] == "COMPLETED"


def test_a_night_outlives_its_worker_dask_the_server_and_the_database(running, struck):
    """Each killed -9 in turn. A sample: `python -m tests.bench topology` kills each at many moments."""
    site = running.site
    wait_until("the same run again, by itself", lambda: site.patiently(f"/flow_runs/{struck}")["run_count"] > 1)
    assert running.notice_of(struck)["text"].startswith("medgan: nightly ")
    site.call_dead_after(600)  # as deployed: a loaded machine beats late
    site.restart_dask()
    wait_until("a model in training", lambda: len(list((site.workspace / "pseudonymised/models").glob("mo-*"))) > 1)
    for part, start in (("prefect", site.start_prefect), ("postgres", site.start_postgres)):
        site.servers.kill(part)
        start()
    state = site.finished(struck)
    assert state["type"] == "COMPLETED", state["message"]
    assert site.versions("killed") == ["1.0.0"]
    zones = Zones.under(site.workspace)
    ledger = night.history("killed", zones=zones)
    assert [(entry.night.number, entry.outcome) for entry in ledger] == [(1, "published")]
    once, twice = (store.head(name, zones=zones) for name in ("main", "killed"))
    assert (once.instances, once.patients, once.studies) == (twice.instances, twice.patients, twice.studies)


def test_an_arrival_is_not_lost_on_a_server_that_is_away_nor_on_one_that_has_gone_deaf(running, first_run):
    site = running.site
    site.finished(first_run["id"])

    def ingested(times: int) -> bool:
        arrived = [run for run in site.runs("ingest/ingest") if run["parameters"]["archive"] == {"source": "incoming"}]
        return len([run for run in arrived if run["state_type"] == "COMPLETED"]) >= times

    first, second = phantom_study(patient=1, instances=2)
    watch = [sys.executable, "-m", "flows", "watch", "incoming", "--workspace", site.workspace, "--every", "1"]
    site.servers.start("watch", watch, env=site.environment, cwd=ROOT)
    (running.incoming / f"{NAMED}.dcm").write_bytes(first)
    wait_until("an ingest of what arrived", lambda: ingested(1))
    site.servers.kill("prefect")
    (running.incoming / "second.dcm").write_bytes(second)
    wait_until("a server that does not answer", lambda: "again" in site.servers.log("watch"))
    healed = site.servers.log("prefect").count("acts on none: it is started again")
    with site.locked("automation"):  # which its triggers are loaded from, after it says that it is healthy
        site.start_prefect()
        site.servers.kill("postgres")
    site.start_postgres()
    wait_until("an ingest of what arrived meanwhile", lambda: ingested(2))
    assert site.servers.log("prefect").count("acts on none: it is started again") > healed
    site.servers.stop("watch")


def test_a_backup_restores_a_site_and_an_older_database_is_upgraded(running, first_run, tmp_path):
    site = running.site
    site.finished(first_run["id"])
    restored = tmp_path / "restored"
    for folder in ("keys", "identified/sources", "pseudonymised", "published"):
        shutil.copytree(site.workspace / folder, restored / folder)
    zones = Zones.under(restored)
    before = store.head("main", zones=Zones.under(site.workspace))
    assert store.head("main", zones=zones) == before
    assert len(read.table(before, zones=zones)) == before.instances
    assert night.begin("chest-xray", zones=zones).number == len(night.history("chest-xray", zones=zones)) == 2
    trust = ["--registry", str(zones.registry), "--trust", str(zones.keys / "pipeline.pub")]
    command = [sys.executable, "-m", "medgan.cli", "pull", "chest-xray@1.0.0", *trust]
    environment = site.environment | {"MEDGAN_HOME": str(tmp_path / "home")}
    pulled = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert pulled.returncode == 0, pulled.stderr
    site.sql("postgres", "create database restored")
    site.sql("restored", site.dump())
    count = "select count(*) from flow_run"
    runs = site.sql("postgres", count).strip()
    assert site.sql("restored", count).strip() == runs != "0"
    # An older database: the last two migrations taken back, as an upgrade of Prefect would find it.
    revision = "select version_num from alembic_version"
    newest = site.sql("restored", revision)
    told = {"PREFECT_API_DATABASE_CONNECTION_URL": site.database_url("restored")}
    site.command("server", "database", "downgrade", "-y", "-r", "-2", **told)
    assert site.sql("restored", revision) != newest
    site.command("server", "database", "upgrade", "-y", **told)
    assert site.sql("restored", revision) == newest
    assert site.sql("restored", count).strip() == runs


def test_no_identifier_is_in_the_database_its_log_of_writes_or_any_log(running, first_run):
    site = running.site
    site.finished(first_run["id"])
    dump = site.folder / "dump"
    dump.mkdir()
    # Long values lie compressed in the raw files: the dump holds them as text.
    text = site.dump()
    (dump / "database.sql").write_text(text)
    assert "night over" in text, "the dump holds the runs' logs"
    for name in reversed(list(site.servers.running)):
        site.servers.stop(name)
    places = {"raw files": site.database, "dump": dump, "logs": site.servers.folder, "home": site.folder / "home"}
    assert {place: residue(root, running.needles) for place, root in places.items()} == {place: {} for place in places}
    posted = "\n".join(running.notices.received)
    assert [needle for needle in running.needles if needle in posted] == []


def _mirror(registry, store: str) -> None:
    """Copy the registry into a bucket, as a site's mirror job does."""
    import boto3

    anybody = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=store, **anybody)
    client.create_bucket(Bucket="released")
    for path in sorted(p for p in registry.rglob("*") if p.is_file()):
        name = path.relative_to(registry).as_posix()
        client.upload_file(str(path), "released", name, ExtraArgs={"ACL": "public-read"})
