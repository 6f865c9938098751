"""Pictures of Prefect's pages for the documentation, taken in a real Chromium on a site of its own.

    python -m tests.bench.topology_pictures FOLDER

Writes prefect-form.png (a night's form), prefect-run.png (a finished night with what it made), prefect-night.png (its
summary) and prefect-pause.png (the gate asks).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.builders.browser import Browser
from tests.builders.servers import wait_until
from tests.builders.topology import ROOT, Topology, fill, small_site, topology

NIGHT = "nightly/small"
_SETTLE_SECONDS = 15
"""A page's panels arrive one by one."""


def main(out: Path) -> None:
    """Start a site, run one night to its end, have the gate ask, and take the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="medgan-pictures-") as folder, topology(Path(folder)) as site:
        fill(site)
        site.deploy(small_site(site.folder / "small.yaml"))
        site.start_worker()
        take(site, out)


def take(site: Topology, out: Path) -> None:
    """The pictures of a site that runs."""
    run = site.trigger(NIGHT)
    ended = site.finished(run)
    if ended["type"] != "COMPLETED":
        raise RuntimeError(ended["message"])
    deployment = site.call(f"/deployments/name/{NIGHT}")["id"]
    mine = {"flow_run_id": {"any_": [run]}, "key": {"any_": ["night"]}}
    summary = site.call("/artifacts/filter", {"artifacts": mine})[0]["id"]
    with Browser(width=1400, height=900) as tab:
        _show(site, tab, f"/runs/flow-run/{run}")
        tab.run(f"localStorage.setItem('prefect-password', '{site.token}')")
        for name, page in {
            "form": f"/deployments/deployment/{deployment}/run",
            "run": f"/runs/flow-run/{run}?tab=Artifacts",
            "night": f"/artifacts/artifact/{summary}",
        }.items():
            _show(site, tab, page)
            tab.picture(out / f"prefect-{name}.png", full=name != "form")
        _show(site, tab, f"/runs/flow-run/{_asked(site)}")
        tab.run("[...document.querySelectorAll('button')].find(b => b.innerText.trim() === 'Resume').click()")
        time.sleep(_SETTLE_SECONDS)
        tab.picture(out / "prefect-pause.png")


def _show(site: Topology, tab: Browser, page: str) -> None:
    tab.open(site.api.removesuffix("/api") + page)
    time.sleep(_SETTLE_SECONDS)


def _asked(site: Topology) -> str:
    """A run that asks a person about the night's privacy report; its id, once it waits."""
    (record,) = (site.workspace / "synthetic/cohorts").glob("*/privacy-record.json")
    command = [sys.executable, "-m", "tests.builders.asking", record, "1"]
    site.servers.start("asking", command, env=site.environment, cwd=ROOT)
    run = str(wait_until("the run", lambda: site.flow_runs("asking"))[0]["id"])
    wait_until("the question", lambda: site.state(run)["type"] == "PAUSED")
    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
