"""The server of a single command ends with it, and leaves a database that holds the run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from urllib.request import proxy_bypass

import httpx
import psutil
import pytest

from tasks import temporary
from tests.builders.servers import listening, wait_until
from tests.builders.web import receiving
from tests.flows.conftest import ROOT, clean_environment

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

COMMAND = """
import os, sys
from pathlib import Path
from tasks import temporary
temporary.configure(Path(sys.argv[1]))
temporary.start()
from prefect import flow
flow(name="told")(lambda: None)()
print(os.environ["PREFECT_API_URL"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def command(tmp_path):
    """A command that has started its server and run a flow, and waits for its standard input to end.

    Its environment names a proxy, as a hospital's does, to which 127.0.0.1 is another machine.
    """
    environment = clean_environment() | {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "intranet.example.org"}
    workspace = tmp_path / "not" / "made yet"
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, workspace],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        yield process, workspace
        process.kill()


@pytest.mark.parametrize("how", ["kill -9", "to its end"])
def test_the_server_is_its_commands_alone_and_gone_with_it_and_what_it_was_told_is_kept(command, how):
    process, workspace = command
    address = process.stdout.readline().decode()
    port = int(address.split(":")[2].partition("/")[0])
    (server,) = psutil.Process(process.pid).children()
    anybody = httpx.post(f"{address.strip()}/flow_runs/count", json={}, trust_env=False)
    assert anybody.status_code == 401, "another account of this machine reads no run"
    assert os.getpgid(server.pid) != os.getpgid(process.pid), "Ctrl-C of a terminal reaches the flow alone"
    assert stat.S_IMODE((workspace / "prefect").stat().st_mode) == 0o700, "or looks into its folder"
    if how == "kill -9":
        process.kill()
    else:
        process.stdin.close()
    process.wait(60)
    wait_until("the server's end", lambda: _is_gone(server), seconds=60)
    assert not listening(port)
    with contextlib.closing(sqlite3.connect(workspace / "prefect/prefect.db")) as database:
        assert database.execute("select name from flow").fetchall() == [("told",)]
        assert database.execute("select state_type from flow_run").fetchall() == [("COMPLETED",)]


@pytest.mark.parametrize("named", ["NO_PROXY", "no_proxy", None])
def test_a_proxy_of_the_environment_is_not_asked_for_loopback_and_what_it_spares_stays_so(monkeypatch, named):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    if named is not None:
        monkeypatch.setenv(named, "intranet.example.org")
    temporary.ask_loopback_directly()
    with receiving() as listening:
        assert httpx.get(listening.address).status_code == 501, "it answered itself: it takes posts only"
    assert bool(proxy_bypass("intranet.example.org")) == (named is not None)
    assert not proxy_bypass("elsewhere.example.org")


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
