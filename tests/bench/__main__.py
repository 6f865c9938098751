"""Run the benchmarks one after the other: `python -m tests.bench [PREFIX ...]`.

Each is a module of this folder that prints its own table (medians, ratios against a peer or a limit
in one run). They run in processes of their own, so that none warms or slows another.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path


def modules(prefixes: list[str]) -> list[str]:
    """Benchmark modules whose name starts with one of `prefixes` (all of them without one), sorted."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [name for name in names if not prefixes or name.startswith(tuple(prefixes))]


def machine() -> str:
    """The processor and how many of its cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def main(prefixes: list[str]) -> int:
    """Run the chosen benchmarks; the exit status is how many failed."""
    chosen = modules(prefixes)
    sys.stdout.write(f"machine: {machine()}\n")
    failed = 0
    for name in chosen:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        failed += subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
