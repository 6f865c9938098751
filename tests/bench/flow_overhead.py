"""What orchestration costs: wall time of a night beside the time inside medgan's own verbs, in one and the same run.

    python -m tests.bench.flow_overhead                            a short night
    MEDGAN_BENCH_KIMG=460 python -m tests.bench.flow_overhead      one of ten minutes and more on one core

The wall clock starts before Prefect is imported and stops when the flow returns: the temporary server's start, every
task's bookkeeping, the run page and the log are outside of the verbs and count as orchestration. What the server
computes while a verb works hides inside the verb's time where both share one core: the strict ratio takes it out of
the verbs and so counts it as orchestration too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.bench.__main__ import machine

ROOT = Path(__file__).parents[2]
KIMG = float(os.environ.get("MEDGAN_BENCH_KIMG", "8"))
PATIENTS = int(os.environ.get("MEDGAN_BENCH_PATIENTS", "800"))
SERVER = "CPU of the server"
VERBS = {
    "medgan.archive.scan": "scan",
    "medgan.collection.ingest": "ingest",
    "medgan.cohort.prepare": "prepare",
    "medgan.validation.admit": "admit",
    "medgan.gan.train": "train",
    "medgan.synthesis.generate": "generate",
    "medgan.quality.measure": "measure",
    "medgan.privacy.attack": "attack",
    "medgan.privacy.gate": "clear",
    "medgan.release.publish": "publish",
}


def main() -> None:
    """One night, timed inside and outside."""
    from medgan import keys
    from medgan.archive import sources
    from medgan.archive.phantom import build_demo_archive
    from medgan.settings import Zones
    from tasks import temporary

    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        archive = Path(folder) / "archive"
        radiographs = ROOT / "tests/samples/pneumoniamnist/pneumoniamnist.npz"
        build_demo_archive(archive, radiographs=radiographs, patients=PATIENTS)
        keys.create(workspace / "keys/pseudonym.key")
        (workspace / "keys/pseudonym.key").write_text("5e" * keys.SECRET_BYTES)
        zones = Zones.under(workspace)
        source = sources.register(archive, zones=zones, keyring=keys.load(zones.pseudonym_key))
        inside = _timed()
        begun = time.perf_counter()
        temporary.configure(workspace)
        temporary.start()
        from flows.nightly import nightly

        night = nightly(archive=source, **_parameters())
        wall = time.perf_counter() - begun
        tasks = _task_runs()
    server = inside.pop(SERVER)
    spent = sum(inside.values())
    lines = [f"  {name:<10}{seconds:9.1f} s" for name, seconds in inside.items()]
    lines += [
        f"published {night.release.version}: wall {wall:.1f} s, verbs {spent:.1f} s (server in them {server:.1f} s)",
        f"machine: {machine()}, load {os.getloadavg()[0]:.1f}",
        f"ratio {wall / spent:.3f}, strict {wall / (spent - server):.3f}; {tasks} task runs",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _parameters() -> dict[str, Any]:
    from medgan.records import CohortRecipe, CohortSpec, ReleaseTerms, TrainRequest

    site = yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text())
    site["training"] = {**site["training"], "total_kimg": KIMG}
    kinds = {"recipe": CohortRecipe, "terms": ReleaseTerms, "training": TrainRequest, "spec": CohortSpec}
    return site | {name: kind.model_validate(site[name]) for name, kind in kinds.items()}


def _timed() -> Counter[str]:
    """Clocks around each verb: the sum is what a script without Prefect would take, and what the server took of it."""
    from importlib import import_module

    spent: Counter[str] = Counter()

    def clocked(name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begun, server = time.perf_counter(), _server_seconds()
            try:
                return verb(*args, **options)
            finally:
                spent[name] += time.perf_counter() - begun
                spent[SERVER] += _server_seconds() - server

        return call

    for module_name, name in VERBS.items():
        module = import_module(module_name)
        setattr(module, name, clocked(name, getattr(module, name)))
    return spent


def _server_seconds() -> float:
    """CPU seconds of the temporary Prefect server so far."""
    children = psutil.Process().children(recursive=True)
    served = [child for child in children if any(word == "tasks.temporary" for word in child.cmdline())]
    return sum(times.user + times.system for times in (child.cpu_times() for child in served))


def _task_runs() -> int:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return len(client.read_task_runs())


if __name__ == "__main__":
    sys.exit(main())
