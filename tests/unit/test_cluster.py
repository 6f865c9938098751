"""Where parallel work runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medgan
from medgan import cluster
from medgan.collection import judgement
from medgan.errors import InvalidRequest, StoreUnavailable


def test_the_embedded_cluster_has_one_thread_a_worker_and_is_gone_afterwards():
    with cluster.open_client(workers=1) as client:
        threads = client.submit(os.environ.get, "OMP_NUM_THREADS").result()
        process = client.submit(os.getpid, pure=False).result()
        assert len(client.nthreads()) == 1
    assert threads == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_no_workers_are_refused():
    with pytest.raises(InvalidRequest), cluster.open_client(workers=0):
        pass


def test_a_scheduler_that_is_not_there_is_a_passing_fault():
    with pytest.raises(StoreUnavailable), cluster.open_client(scheduler="nonsense://127.0.0.1:1"):
        pass


RUNNING = """
import json, sys
from pathlib import Path
from medgan.collection import judgement
from medgan.synthesis import blocks
told = [(judgement.rules("profile"), blocks.version())]
for name in sys.argv[1:]:
    with Path("medgan", name).open("a") as file:
        file.write("\\n# another version\\n")
told.append((judgement.rules("profile"), blocks.version()))
print(json.dumps(told))
"""


def copied(folder: Path) -> Path:
    """A copy of medgan that may be upgraded."""
    shutil.copytree(Path(medgan.__file__).parent, folder / "medgan", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_process_tells_the_version_it_runs_and_not_what_an_upgrade_wrote_since(tmp_path):
    folder = copied(tmp_path)

    def running(*upgraded: str) -> list[list[str]]:
        command = [sys.executable, "-c", RUNNING, *upgraded]
        return json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)

    old, still = running("keys.py", "gan/__init__.py")
    assert still == old
    for before, now in zip(old, running()[0], strict=True):
        assert before != now


def test_whatever_decides_a_pseudonym_or_a_refusal_is_part_of_the_rules(tmp_path, monkeypatch):
    folder = copied(tmp_path)
    monkeypatch.setattr(cluster, "__file__", str(folder / "medgan" / "cluster.py"))
    told = {judgement._code()}
    parts = ["keys.py", "settings.py", "errors.py", "records/study.py", "deid/bounds.csv", "archive/scan.py"]
    for name in parts:
        with (folder / "medgan" / name).open("a") as file:
            file.write("\n")
        told.add(judgement._code())
    assert len(told) == len(parts) + 1
