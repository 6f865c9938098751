"""A whole site on loopback whose parts are killed -9 in turn, each at several moments of a night of its own.

    python -m tests.bench.topology_killed                          every part at every moment: an hour and more
    MEDGAN_BENCH_KILLS=worker:train,prefect:train python -m tests.bench.topology_killed

A dead worker is found by the automation `zombie` itself (its window cut to 90 s), and the run is started again by the
other one. Every night must end published, once, with one line in the ledger, every instance in its collection and a
version that a reader pulls and verifies whole.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from medgan import night
from medgan.client.pull import pull
from medgan.collection import store
from medgan.errors import MedganError
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.servers import wait_until
from tests.builders.topology import Topology, fill, small_site, topology

PARTS = ("worker", "dask", "prefect", "postgres")
MOMENTS = ("ingest", "train", "generate", "publish")
WINDOW_SECONDS = 90
ENDS = {"COMPLETED", "FAILED", "PAUSED"}  # not CRASHED: it is started again
NIGHT = "nightly/small"
_HELD: dict[str, int] = {}
"""What the first night's collection holds: every other one must hold as much."""


def main() -> int:
    """Run the nights; the exit status is how many did not end as they must."""
    given = os.environ.get("MEDGAN_BENCH_KILLS")
    pairs = [tuple(kill.split(":")) for kill in given.split(",")] if given else [*itertools.product(PARTS, MOMENTS)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="medgan-killed-") as folder, topology(Path(folder)) as site:
        os.environ["MEDGAN_HOME"] = str(site.folder / "reader")
        sys.stdout.write(f"machine: {machine()}, load {os.getloadavg()[0]:.1f}\n")
        _prepare(site)
        for number, (part, moment) in enumerate(pairs):
            begun = time.monotonic()
            verdict = _night(site, part, moment, kimg=8 + number / 10)
            failed += verdict != "whole"
            sys.stdout.write(f"  {part:<9}killed at {moment:<9}{verdict:<60}{time.monotonic() - begun:6.0f} s\n")
            sys.stdout.flush()
    return failed


def _prepare(site: Topology) -> None:
    fill(site)
    site.deploy(small_site(site.folder / "small.yaml"))
    site.call_dead_after(WINDOW_SECONDS)
    site.start_worker()


def _night(site: Topology, part: str, moment: str, *, kimg: float) -> str:
    """One night with a kill; `whole`, or what was wrong.

    Each trains for another while, because the same training on the same archive would be found finished. A kill of an
    ingest has a collection of its own; the others find theirs filled by the first of them.
    """
    name = f"{part}-{moment}"
    collection = name if moment == "ingest" else "main"
    reached = _moment(site, name, moment)
    training = {"recipe": "xray_32_cpu", "total_kimg": kimg}
    run = site.trigger(NIGHT, dataset=name, collection=collection, training=training)

    def is_over() -> bool:
        return site.state(run)["type"] in ENDS

    wait_until(f"{name} reached", lambda: reached() or is_over(), pause=0.1)
    if is_over():
        return "over before the kill"
    _kill(site, part)
    wait_until("the night's end", is_over, seconds=1800, pause=2)
    zones = Zones.under(site.workspace)
    ended, ledger = site.state(run), night.history(name, zones=zones)
    held = store.head(collection, zones=zones)
    facts = {
        "state": ended["type"] == "COMPLETED",
        "versions": site.versions(name) == ["1.0.0"],
        "ledger": [(entry.night.number, entry.outcome) for entry in ledger] == [(1, "published")],
        "verified": _is_whole(name, zones),
        "instances": held.instances == _HELD.setdefault("instances", held.instances),
    }
    wrong = [fact for fact, well in facts.items() if not well]
    return "whole" if not wrong else f"not {', '.join(wrong)}: {(ended['message'] or '')[:80]}"


def _is_whole(name: str, zones: Zones) -> bool:
    """Whether a reader gets the version: signed, every file, nothing extra."""
    try:
        pull(name, registry=str(zones.registry), trust=zones.keys / "pipeline.pub")
    except MedganError:
        return False
    return True


def _moment(site: Topology, name: str, moment: str) -> Callable[[], bool]:
    """Whether the night has come so far."""
    workspace = site.workspace
    folders = {
        "ingest": workspace / f"pseudonymised/collection/{name}.staging",
        "train": workspace / "pseudonymised/models",
        "generate": workspace / "synthetic/cohorts",
        "publish": workspace / f"published/registry/{name}",
    }
    folder = folders[moment]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    return lambda: folder.is_dir() and bool(set(folder.iterdir()) - before)


def _kill(site: Topology, part: str) -> None:
    match part:
        case "worker":
            site.servers.kill("worker-medgan")
            site.start_worker()
        case "dask":
            site.restart_dask()
        case "prefect":
            site.servers.kill("prefect")
            site.start_prefect()
        case "postgres":
            site.servers.kill("postgres")
            site.start_postgres()


if __name__ == "__main__":
    sys.exit(main())
