"""Pictures of Prefect's pages for the documentation, taken in a real Chromium on a site of its own.

    python -m tests.bench.topology_pictures FOLDER

Writes prefect-form.png (a night's form), prefect-run.png (a finished night with what it made), prefect-night.png (its
summary), prefect-asks.png (what the gate says under a stricter policy) and prefect-pause.png (what it asks of us).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.builders.browser import Browser
from tests.builders.servers import wait_until
from tests.builders.topology import Topology, fill, small_site, topology

NIGHT = "nightly/small"
_SETTLED = {"PAUSED", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_SETTLE_SECONDS = 12
"""A page's panels arrive one by one."""
_WIDTH = 1400
_FIND = "[...document.querySelectorAll('*')].filter(e => (e.innerText || '').trim() === '{}').at(-1)"
_TOP = """(() => {{
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), line = document.createRange()
    while (texts.nextNode()) {{
        const at = texts.currentNode.data.indexOf('{0}')
        if (at < 0) continue
        line.setStart(texts.currentNode, at)
        line.setEnd(texts.currentNode, at + '{0}'.length)
        return Math.floor(line.getBoundingClientRect().top)
    }}
}})()"""
"""Where a line of text begins, in pixels from the window's upper edge."""


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
    deployment = site.call(f"/deployments/name/{NIGHT}")["id"]
    run = site.trigger(NIGHT)
    with Browser(width=_WIDTH, height=900) as tab:
        _show(site, tab, "/dashboard")
        tab.run(f"localStorage.setItem('prefect-password', '{site.token}')")
        _picture(site, tab, out / "prefect-form.png", f"/deployments/deployment/{deployment}/run", height=1700)
        ended = site.finished(run)
        if ended["type"] != "COMPLETED":
            raise RuntimeError(ended["message"])
        _picture(site, tab, out / "prefect-run.png", f"/runs/flow-run/{run}", height=1300, opened="Artifacts")
        summary = _artifact(site, run, "night")
        _picture(site, tab, out / "prefect-night.png", summary, width=1700, height=980, above="  catalogue ")
        asked = _asked(site)
        _picture(site, tab, out / "prefect-asks.png", _artifact(site, asked, "gate-asks"), height=1000)
        _picture(site, tab, out / "prefect-pause.png", f"/runs/flow-run/{asked}", height=900, opened="Resume")


def _picture(
    site: Topology, tab: Browser, file: Path, page: str, *,
    height: int, width: int = _WIDTH, opened: str = "", above: str = "",
) -> None:  # fmt: skip
    """A page, or what its button or tab `opened` shows, in a window so high: Prefect's pages scroll inside.

    Or in a window that ends `above` a line, below which stand the folders of a site that is gone tomorrow.
    """
    _sized(tab, width, height)
    _show(site, tab, page)
    if above:
        _sized(tab, width, tab.run(_TOP.format(above)))
    if opened:
        tab.until(f"!!{_FIND.format(opened)}", seconds=120)
        tab.run(f"{_FIND.format(opened)}.click()")
        time.sleep(_SETTLE_SECONDS)
    tab.picture(file)


def _sized(tab: Browser, width: int, height: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)


def _show(site: Topology, tab: Browser, page: str) -> None:
    tab.open(site.api.removesuffix("/api") + page)
    time.sleep(_SETTLE_SECONDS)


def _artifact(site: Topology, run: str, key: str) -> str:
    """The page of what a run made under a key."""
    mine = {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}
    return f"/artifacts/artifact/{site.call('/artifacts/filter', {'artifacts': mine})[0]['id']}"


def _asked(site: Topology) -> str:
    """A night that a stricter policy does not clear; its id, once it waits for a person."""
    run = site.trigger(NIGHT, dataset="stricter", policy="strict")
    wait_until("the question", lambda: site.state(run)["type"] in _SETTLED)
    state = site.state(run)
    if state["type"] != "PAUSED":
        raise RuntimeError(f"the night asked nobody: {state['name']}, {state['message']}")
    sys.stdout.write(f"a night under the strict policy: {state['name']}\n")
    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
