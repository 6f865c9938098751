"""One committer a collection over several machines: a real PostgreSQL's advisory lock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from medgan.collection import committer, store
from medgan.errors import Conflict, StoreUnavailable
from medgan.settings import Zones
from tests.builders import servers

LEVELS = ("instances", "series", "studies", "patients")
HOLDER = """
import sys, time
from pathlib import Path
from medgan.collection import committer
from medgan.settings import Zones
with committer.committer("main", zones=Zones.under(sys.argv[1])):
    Path(sys.argv[2]).write_text("held")
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def postgres(module_servers, tool) -> Iterator[str]:
    # Not below pytest's own folder: every session that starts shuts that to other users again.
    with tempfile.TemporaryDirectory(prefix="committer-postgres-") as scratch:
        folder, port = Path(scratch), servers.free_port()
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if become:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        initialise = [tool("initdb"), "-D", data, "-U", "medgan", "--auth=trust", "--no-sync"]
        done = subprocess.run([*become, *map(str, initialise)], check=False, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        command = [*become, tool("postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        dsn = f"postgresql://medgan@127.0.0.1:{port}/postgres"
        module_servers.start("postgres", command, ready=lambda: answers(dsn), cwd=folder)
        yield dsn
        module_servers.stop("postgres", signal.SIGINT)


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


@pytest.fixture
def two_machines(tmp_path, postgres, monkeypatch) -> tuple[Zones, Zones]:
    """Zones of two machines: their lock files know nothing of each other, the database does."""
    monkeypatch.setenv(committer.DSN_VARIABLE, postgres)
    return Zones.under(tmp_path / "one"), Zones.under(tmp_path / "two")


def test_a_second_machine_is_refused_and_let_in_when_the_first_is_done(two_machines):
    one, two = two_machines
    with store.writer("main", zones=one):
        with pytest.raises(Conflict), store.writer("main", zones=two):
            pass
        with store.writer("other", zones=two):
            pass
    with store.writer("main", zones=two):
        pass


def test_a_killed_committer_leaves_no_lock_behind(two_machines, servers, tmp_path):
    one, two = two_machines
    held = tmp_path / "held"
    servers.start(
        "holder", [sys.executable, "-c", HOLDER, tmp_path / "one", held], ready=held.exists, env={**os.environ}
    )
    with pytest.raises(Conflict), committer.committer("main", zones=two):
        pass
    servers.kill("holder")
    with committer.committer("main", zones=two, wait=True):
        pass
    assert one != two


def test_who_lost_the_session_commits_nothing(two_machines, postgres):
    one, two = two_machines
    with store.writer("main", zones=one) as writer:
        with psycopg.connect(postgres, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'medgan-committer'"
            )
        writer.group.attrs["written"] = True
        # Somebody else is the committer by now.
        with store.writer("main", zones=two), pytest.raises(Conflict, match="nothing was committed"):
            writer.commit("late", counts=dict.fromkeys(LEVELS, 0), table_sha256=store.EMPTY_TABLE_SHA256)
    assert store.log("main", zones=one) == []


def test_a_database_that_does_not_answer_stops_the_write_without_its_address(two_machines, monkeypatch):
    monkeypatch.setenv(committer.DSN_VARIABLE, "postgresql://me:secret@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable) as refused, store.writer("main", zones=two_machines[0]):
        pass
    assert "secret" not in str(refused.value)
