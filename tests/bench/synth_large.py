"""A million images planned, many made in one run at flat memory, killed with SIGKILL on the way and taken up again.

    python -m tests.bench.synth_large [--images 200000] [--kill-at 0.3]

The generator is a nano one, the dense ladder of the founding article, because this bench is about the path around the
network: plan, table, blocks, memory, resume. Memory is that of the process that
drives, sampled ten times a second, and of its largest worker.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from medgan.cohort import synthetic
from medgan.gan.train import train
from medgan.records import CohortSpec, Target, TrainRequest
from medgan.settings import Zones
from medgan.synthesis import plan, redraw
from medgan.synthesis.generate import cohort_handle, generate
from tests.bench.__main__ import machine
from tests.builders.cohort import pneumonia_cohort

RECIPE = "article_64"
WORKERS = 2
TARGETS = (Target(of=("sex",), shares={"F": 0.6}), Target(of=("class",), shares={"pneumonia": 0.4}))


def child(folder: Path, handle: str, images: int) -> None:
    """Make the cohort; print images done and this process's peak memory in MiB as it goes."""
    zones = Zones.under(folder)
    model = redraw.trained_model(handle, zones=zones)
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 1 or done == total:
            last = time.monotonic()
            mine = psutil.Process()
            workers = [process.memory_info().rss for process in mine.children()] or [0]
            sys.stdout.write(f"{done} {mine.memory_info().rss >> 20} {max(workers) >> 20} {mine.pid}\n")
            sys.stdout.flush()

    generate(
        model, CohortSpec(images=images, seed=1, targets=TARGETS), zones=zones, workers=WORKERS, on_progress=report
    )


def run(folder: Path, handle: str, images: int, *, kill_at: int | None) -> list[tuple[int, int, int]]:
    """(done, MiB here, MiB of the largest worker) as the child told; killed with SIGKILL once `kill_at` are done."""
    command = [sys.executable, "-m", "tests.bench.synth_large", "--child", str(folder), handle, "--images", str(images)]
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done, here, worker, pid = map(int, line.split())
            told.append((done, here, worker))
            if kill_at is not None and done >= kill_at:
                family = psutil.Process(pid).children(recursive=True)
                os.kill(pid, signal.SIGKILL)
                psutil.wait_procs(family, timeout=60)
                break
    return told


def main() -> int:
    """Print plan, memory and what resuming cost; the exit status says whether a promise broke."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--kill-at", type=float, default=0.3)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "MODEL"))
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), options.child[1], options.images)
        return 0
    sys.stdout.write(f"machine: {machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(folder)
        cohort = pneumonia_cohort(zones, images=400, size_px=64)
        model = train(cohort, TrainRequest(recipe=RECIPE, total_kimg=0.032), zones=zones)
        started = time.process_time()
        for line in plan.plan(
            model, CohortSpec(images=1_000_000, targets=TARGETS), zones=zones, workers=WORKERS
        ).lines():
            sys.stdout.write(f"plan: {line}\n")
        sys.stdout.write(f"planned in {time.process_time() - started:.1f} CPU-seconds\n")
        spec = CohortSpec(images=options.images, seed=1, targets=TARGETS)
        home = synthetic.folder(cohort_handle(model, spec), zones=zones)
        first = run(Path(folder), model.model, options.images, kill_at=int(options.kill_at * options.images))
        stood = shards(home.with_name(f".{home.name}.partial"))
        second = run(Path(folder), model.model, options.images, kill_at=None)
        after = shards(home)
        again = sum(after[name] != inode for name, inode in stood.items())
        made = synthetic.record(cohort_handle(model, spec), zones=zones)
        assert made is not None
        flat = [here for done, here, _ in second if done > 0.3 * options.images]
        sys.stdout.write(
            f"killed at {first[-1][0]:,} of {options.images:,}, {len(stood)} blocks standing; taken up at "
            f"{second[0][0]:,}; of the blocks that stood {again} were written again\n"
            f"memory here {flat[0]} MiB when taken up, {max(flat)} MiB at most; largest worker "
            f"{max(worker for _, _, worker in first + second)} MiB\n"
            f"made {made.images:,}, classes {made.class_counts}\n"
        )
        labels = pd.read_parquet(home / synthetic.LABELS)
        for name, value, asked in (("sex", "F", 0.6), ("class", "pneumonia", 0.4)):
            sys.stdout.write(f"{name} {value}: {(labels[name] == value).mean():.6f}, asked {asked}\n")
        return int(again > 0 or second[0][0] != 1024 * len(stood) or max(flat) > 1.2 * flat[0] + 50)


def shards(home: Path) -> dict[str, int]:
    """Shard number -> inode: a shard that is written again has another."""
    return {path.parts[-3]: path.stat().st_ino for path in home.glob("images.zarr/images/c/*/0/0")}


if __name__ == "__main__":
    sys.exit(main())
