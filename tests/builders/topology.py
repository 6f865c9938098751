"""A whole site on loopback, every part a real process: what `infra/` says, without an engine.

PostgreSQL, a Prefect server with a password, process workers, a Dask scheduler with TLS and two workers, an S3 server
and nginx for the catalogue. Each part can be killed and started again by its name.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medgan import keys
from medgan.archive import sources
from medgan.archive.phantom import build_demo_archive
from medgan.settings import Zones
from tests.builders.servers import Servers, free_port, listening, wait_until

if TYPE_CHECKING:
    from medgan.archive.phantom import Planted

ROOT = Path(__file__).parents[2]
RADIOGRAPHS = ROOT / "tests/samples/pneumoniamnist/pneumoniamnist.npz"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_BINARIES = Path("/usr/lib/postgresql/15/bin")


class Topology:
    """The site. `folder` holds what is medgan's, `database` what is PostgreSQL's."""

    def __init__(self, folder: Path, running: Servers, database: Path) -> None:
        """Choose ports and secrets; nothing is started."""
        self.folder, self.servers, self.database = folder, running, database
        self.workspace = folder / "workspace"
        self.password, self.database_password = secrets.token_hex(12), secrets.token_hex(12)
        self.ports = {name: free_port() for name in ("postgres", "prefect", "dask", "s3", "catalogue")}
        self.api = f"http://127.0.0.1:{self.ports['prefect']}/api"
        self.settings: dict[str, str] = {}
        tls = folder / "tls"
        subprocess.run([ROOT / "infra/dask/certificates.sh", tls], check=True)
        self.dask = {
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(tls / "ca.pem"),
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
            **{
                f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part}": str(tls / file)
                for role in ("SCHEDULER", "WORKER", "CLIENT")
                for part, file in (("CERT", "cert.pem"), ("KEY", "key.pem"))
            },
        }

    @property
    def token(self) -> str:
        """The password as HTTP's basic scheme wants it."""
        return base64.b64encode(f"medgan:{self.password}".encode()).decode()

    @property
    def environment(self) -> dict[str, str]:
        """What workers and commands are told."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MEDGAN_", "DASK_"))}
        return inherited | self.dask | {
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": f"medgan:{self.password}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "MEDGAN_HOME_DIR": str(ROOT),
            "MEDGAN_WORKSPACE": str(self.workspace),
            "MEDGAN_DASK_SCHEDULER": f"tls://127.0.0.1:{self.ports['dask']}",
            "OMP_NUM_THREADS": "1",
        } | self.settings  # fmt: skip

    # --- parts -------------------------------------------------------------------------------------------------

    def start_postgres(self) -> None:
        """PostgreSQL by a user of its own: it refuses to be root."""
        data, port = self.database / "data", str(self.ports["postgres"])
        if not data.exists():
            (self.database / "password").write_text(self.database_password)
            _own(self.database)
            options = ["--username=prefect", "--auth=scram-sha-256", f"--pwfile={self.database / 'password'}"]
            subprocess.run(
                [*_as_postgres(), _BINARIES / "initdb", "-D", data, "-E", "UTF8", "--locale=C.UTF-8", *options],
                check=True,
                capture_output=True,
                cwd=self.database,
            )
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.database}"]
        command = [*_as_postgres(), _BINARIES / "postgres", "-D", data, "-p", port, *options]
        self.servers.start("postgres", command, ready=self._postgres_answers, cwd=self.database)

    def _postgres_answers(self) -> bool:
        asked = ["-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "prefect", "-d", "postgres", "-q"]
        return not subprocess.run([_BINARIES / "pg_isready", *asked], check=False).returncode

    def start_prefect(self, *, ready: bool = True) -> None:
        """The Prefect server on PostgreSQL, with a password, and watched as `infra/` says; waits for it if `ready`."""
        port = self.ports["prefect"]
        env = self.environment | {
            "PREFECT_API_DATABASE_CONNECTION_URL": self.database_url("postgres"),
            "PREFECT_SERVER_API_AUTH_STRING": f"medgan:{self.password}",
            "PREFECT_SERVER_METRICS_ENABLED": "true",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",  # a pulse comes back in a second
        }
        command = [sys.executable, "-m", "flows", "server", "--port", port, "--pulse", "15"]
        self.servers.start("prefect", command, ready=lambda: not ready or self.call("/health"), env=env, cwd=ROOT)

    def start_dask(self) -> None:
        """A scheduler with TLS and without a dashboard."""
        port = self.ports["dask"]
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", f"tls://127.0.0.1:{port}"]
        self.servers.start(
            "dask", [*command, "--no-dashboard"], ready=lambda: listening(port), env=self.environment, cwd=ROOT
        )

    def start_dask_worker(self, number: int) -> None:
        """One worker process of one thread."""
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.environment["MEDGAN_DASK_SCHEDULER"]]
        options = ["--nthreads", "1", "--no-dashboard", "--local-directory", self.folder / f"dask-{number}"]
        self.servers.start(f"dask-worker-{number}", [*command, *options], env=self.environment, cwd=ROOT)

    def start_worker(self, pool: str = "medgan") -> None:
        """A process worker on a pool."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
        self.servers.start(f"worker-{pool}", [*command, "--name", pool], env=self.environment, cwd=ROOT)

    def start_s3(self) -> str:
        """An S3 server; its address."""
        port = self.ports["s3"]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        self.servers.start("s3", command, ready=lambda: listening(port), env=self.environment, cwd=self.folder)
        return f"http://127.0.0.1:{port}"

    def start_catalogue(self) -> str:
        """nginx with infra's own configuration, its port and root set to this site's; the catalogue's address."""
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        home, port = self.folder / "nginx", self.ports["catalogue"]
        home.mkdir(exist_ok=True)
        site = (ROOT / "infra/nginx/catalogue.conf").read_text()
        site = site.replace("listen 8080;", f"listen 127.0.0.1:{port};")
        site = site.replace("root /workspace/published/registry;", f"root {self.workspace}/published/registry;")
        assert f":{port};" in site
        assert str(self.workspace) in site
        scratch = "".join(
            f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (home / "nginx.conf").write_text(
            f"daemon off; pid {home}/pid; error_log stderr; {'user root;' if os.getuid() == 0 else ''}\n"
            f"events {{}}\nhttp {{ include /etc/nginx/mime.types; access_log off; {scratch}\n{site}}}\n"
        )
        self.servers.start("catalogue", [program, "-p", home, "-c", home / "nginx.conf"], ready=lambda: listening(port))
        return f"http://127.0.0.1:{port}"

    def restart_dask(self) -> None:
        """Kill -9 scheduler and workers, and start them again as a supervisor would."""
        for name in ("dask", "dask-worker-1", "dask-worker-2"):
            self.servers.kill(name)
        self.start_dask()
        for number in (1, 2):
            self.start_dask_worker(number)

    def database_url(self, database: str) -> str:
        """A database as Prefect's setting names it."""
        where = f"127.0.0.1:{self.ports['postgres']}/{database}"
        return f"postgresql+asyncpg://prefect:{self.database_password}@{where}"

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Nobody can read a table of Prefect's while the block lasts, or until PostgreSQL ends."""
        held = f"begin; lock table {table}; select pg_sleep(600)"
        command = [_BINARIES / "psql", *self._where, "-d", "postgres", "-c", held]
        with subprocess.Popen(command, env=self._login, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as lock:
            granted = "select count(*) from pg_locks where granted and mode = 'AccessExclusiveLock'"
            wait_until("the lock", lambda: self.sql("postgres", granted).strip() != "0")
            yield
            lock.terminate()

    def sql(self, database: str, text: str) -> str:
        """Run SQL; rows as text."""
        return self._postgres("psql", "-d", database, "-At", "-v", "ON_ERROR_STOP=1", "-q", given=text)

    def dump(self) -> str:
        """Prefect's database as SQL."""
        return self._postgres("pg_dump", "-d", "postgres")

    @property
    def _where(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "prefect"]

    @property
    def _login(self) -> dict[str, str]:
        return {**os.environ, "PGPASSWORD": self.database_password}

    def _postgres(self, program: str, *words: str, given: str = "") -> str:
        command = [_BINARIES / program, *self._where, *words]
        done = subprocess.run(command, env=self._login, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    # --- talking to it -----------------------------------------------------------------------------------------

    def call(self, path: str, body: Any = None, *, method: str | None = None, password: str | None = None) -> Any:
        """Ask the API; the answer's JSON. Refusals are `urllib.error.HTTPError`."""
        token = self.token if password is None else base64.b64encode(f"medgan:{password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - loopback
            self.api + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Basic {token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    def patiently(self, path: str, body: Any = None) -> Any:
        """`call`, again and again while a server is away or its database is."""
        return wait_until(f"an answer to {path}", lambda: self._maybe(path, body))

    def _maybe(self, path: str, body: Any) -> Any:
        try:
            return self.call(path, body)
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code < 500:
                raise AssertionError(f"{path}: {refused.code}") from None
            return None

    def command(self, *words: str, module: str = "prefect", **told: str) -> str:
        """`python -m MODULE WORDS` to its end, which must be a good one; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=ROOT, env=self.environment | told, capture_output=True, text=True, check=False,
        )  # fmt: skip
        with (self.servers.folder / "commands.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, *sites: Path, webhook: str | None = None) -> str:
        """Pools, deployments, automations; notices go to `webhook`."""
        chosen = [word for site in sites for word in ("--site", str(site))]
        if webhook is not None:
            secret = self.folder / "webhook"
            secret.touch(mode=0o600)
            secret.write_text(webhook)
            chosen += ["--webhook", str(secret)]
        return self.command("deploy", "--workspace", str(self.workspace), *chosen, module="flows")

    def call_dead_after(self, seconds: int) -> None:
        """How long a run may give no sign of life before the automation `zombie` calls it crashed."""
        for automation in self.call("/automations/filter", {}):
            if automation["name"] == "medgan: zombie":
                body = {key: automation[key] for key in ("name", "description", "enabled", "trigger", "actions")}
                body["trigger"]["within"] = seconds
                self.call(f"/automations/{automation['id']}", body, method="PUT")

    def trigger(self, deployment: str, **changed: Any) -> str:
        """Start a run of `FLOW/NAME` with some parameters changed; its id."""
        found = self.call(f"/deployments/name/{deployment}")
        body = {"parameters": {**found["parameters"], **changed}}
        return str(self.call(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Runs of a deployment, newest first."""
        flow, name = deployment.split("/")
        body = {
            "flows": {"name": {"any_": [flow]}},
            "deployments": {"name": {"any_": [name]}},
            "sort": "EXPECTED_START_TIME_DESC",
        }
        return list(self.patiently("/flow_runs/filter", body) or [])

    def flow_runs(self, flow: str) -> list[dict[str, Any]]:
        """Runs of a flow, deployed or not."""
        return list(self.patiently("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}}) or [])

    def state(self, run: str) -> dict[str, Any]:
        """The state of a run."""
        return dict(self.patiently(f"/flow_runs/{run}")["state"])

    def page(self, run: str) -> str:
        """The address of a run's page."""
        return f"{self.api.removesuffix('/api')}/runs/flow-run/{run}"

    def finished(self, run: str) -> dict[str, Any]:
        """The last state of a run, once it has one."""

        def last() -> dict[str, Any] | None:
            state = self.state(run)
            return state if state["type"] in FINAL else None

        return dict(wait_until(f"the end of run {run}", last, seconds=1200, pause=1))

    def versions(self, dataset: str) -> list[str]:
        """Versions that the index lists."""
        index = self.workspace / "published/registry/index.json"
        if not index.exists():
            return []
        listed = json.loads(index.read_text())["datasets"]
        return [v["version"] for entry in listed if entry["name"] == dataset for v in entry["versions"]]


def _as_postgres() -> list[str | Path]:
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _own(folder: Path) -> None:
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "postgres", "postgres")


@contextmanager
def topology(folder: Path, *, settings: dict[str, str] | None = None) -> Iterator[Topology]:
    """Everything but the Prefect workers, started; ended when the block ends."""
    # Not below `folder`: pytest's folders are closed to the user that PostgreSQL runs as.
    database = Path(tempfile.mkdtemp(prefix="medgan-postgres-"))
    try:
        with Servers(folder / "logs") as running:
            site = Topology(folder, running, database)
            site.settings = settings or {}
            site.start_postgres()
            site.start_prefect()
            site.start_dask()
            for number in (1, 2):
                site.start_dask_worker(number)
            yield site
    finally:
        shutil.rmtree(database, ignore_errors=True)


def fill(site: Topology, *, patients: int = 800) -> Planted:
    """A key and an archive, registered as `main`; returns what was planted into it."""
    archive, zones = site.folder / "archive", Zones.under(site.workspace)
    planted = build_demo_archive(archive, radiographs=RADIOGRAPHS, patients=patients)
    key = site.workspace / "keys/pseudonym.key"
    keys.create(key)
    key.write_text("5e" * keys.SECRET_BYTES)  # pseudonyms decide the split and with it all that is measured
    sources.register(archive, zones=zones, keyring=keys.load(zones.pseudonym_key), name="main")
    return planted


def small_site(path: Path, *, kimg: float = 8, images: int = 256, **more: Any) -> Path:
    """A site's file: the demo's parameters, but short nights."""
    demo = yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text())
    short = {"training": {"recipe": "xray_32_cpu", "total_kimg": kimg}, "spec": {"images": images}}
    path.write_text(yaml.safe_dump({**demo, **short, **more}))
    return path
