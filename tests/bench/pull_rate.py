"""What a verified pull costs: from a folder and from a web server on loopback, in MB a second of wall and CPU time.

    python -m tests.bench.pull_rate [--images 20000]

The version is published for real (radiographs enlarged to 128 px, one class column); every pull verifies the
signature, every file's SHA-256, and is written, fsynced and renamed. Loading is the first batch of 64 after that.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import medgan
from medgan.client import pull
from medgan.release import publish
from medgan.settings import Zones
from tests.bench.loader_speed import images
from tests.builders import release as build

_SERVER = """
import http.server, sys
http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None
serve = lambda *about: http.server.SimpleHTTPRequestHandler(*about, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROUNDS = 3


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
        with subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(zones.registry)], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            web = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            sys.stdout.write(f"{'from':14} {'MB/s wall':>10} {'MB/s CPU':>10} {'first batch s':>14}\n")
            for label, registry in (("folder", str(zones.registry)), ("web, loopback", web)):
                rounds = [timed(registry, zones.keys / "pipeline.pub", Path(name) / "cache") for _ in range(ROUNDS)]
                wall, cpu, first = (statistics.median(column) for column in zip(*rounds, strict=True))
                sys.stdout.write(f"{label:14} {size / wall / 1e6:10.0f} {size / cpu / 1e6:10.0f} {first:14.2f}\n")
            server.terminate()


if __name__ == "__main__":
    main()
