"""What a verified pull costs: from a folder and from a web server on loopback, in MB a second of wall and CPU time.

    python -m tests.bench.pull_rate [--images 20000]

The web server is nginx where it is installed, as infra/ has it; else Python's, which is slower than the client.
The version is published for real (radiographs enlarged to 128 px, one class column); every pull verifies the
signature, every file's SHA-256, and is written, fsynced and renamed. Loading is the first batch of 64 after that.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import medgan
from medgan.client import pull
from medgan.release import publish
from medgan.settings import Zones
from tests.bench.loader_speed import images
from tests.builders import release as build
from tests.builders import servers

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROUNDS = 3


@contextmanager
def serving(root: Path, home: Path) -> Iterator[tuple[str, str]]:
    """A web server over `root`: what it is called, and its address."""
    nginx, port = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), servers.free_port()
    command: list[str | Path] = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", root, str(port)]
    if nginx is not None:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        scratch = " ".join(f"{kind}_temp_path {home}/{kind};" for kind in kinds)
        (home / "nginx.conf").write_text(
            f"daemon off; pid {home}/pid; error_log stderr; {'user root;' if os.getuid() == 0 else ''} events {{}}\n"
            f"http {{ access_log off; sendfile on; {scratch} server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
        )
        command = [nginx, "-p", home, "-c", home / "nginx.conf"]
    with servers.servers(home / "logs") as running:
        running.start("web", command, ready=lambda: servers.listening(port))
        yield ("Python" if nginx is None else "nginx"), f"http://127.0.0.1:{port}"


def published(workspace: Path, count: int) -> Zones:
    """A workspace with one version of `count` images of 128 x 128."""
    zones = Zones.under(workspace)
    pixels = np.concatenate(list(images(count, 8, 0.0)))
    cohort = build.synthetic_cohort(zones, count=count, images=pixels, classes=["normal", "pneumonia"] * (count // 2))
    publish.publish(cohort.cleared, build.request(), zones=zones)
    return zones


def timed(registry: str, key: Path, cache: Path) -> tuple[float, float, float]:
    """Wall and CPU seconds of one pull into an empty cache, and wall seconds to the first batch after it."""
    shutil.rmtree(cache, ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    folder = pull.pull("chest-demo", registry=registry, trust=key, cache=cache, now=NOW)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    start = time.perf_counter()
    next(iter(medgan.open_folder(folder).loader(batch=64)))
    return wall, cpu, time.perf_counter() - start


def main() -> None:
    """Publish, pull three times each way, print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="release-pull-") as name:
        os.environ["MEDGAN_HOME"] = f"{name}/home"
        zones = published(Path(name) / "workspace", options.images)
        size = sum(path.stat().st_size for path in zones.registry.rglob("*") if path.is_file())
        machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
        sys.stdout.write(f"{machine}; {options.images:,} images, {size / 1e6:.0f} MB packed\n")
        with serving(zones.registry, Path(name)) as (program, web):
            sys.stdout.write(f"{'from':18} {'MB/s wall':>10} {'MB/s CPU':>10} {'first batch s':>14}\n")
            for label, registry in (("folder", str(zones.registry)), (f"loopback, {program}", web)):
                rounds = [timed(registry, zones.keys / "pipeline.pub", Path(name) / "cache") for _ in range(ROUNDS)]
                wall, cpu, first = (statistics.median(column) for column in zip(*rounds, strict=True))
                sys.stdout.write(f"{label:18} {size / wall / 1e6:10.0f} {size / cpu / 1e6:10.0f} {first:14.2f}\n")


if __name__ == "__main__":
    main()
