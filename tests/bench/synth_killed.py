"""A cohort made while a worker is killed by pid every so often, beside the same one made in peace by two and by one.

    python -m tests.bench.synth_killed [--images 81920] [--every 10] [--blocks 512]

Prints how many workers were killed, and whether images, labels and record are the same bytes in blocks of 1,024 (two
workers), 256 (one worker) and `--blocks` (two, killed).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from medgan.cohort import synthetic
from medgan.records import CohortSpec
from medgan.settings import Zones
from medgan.synthesis.dispatch import Run
from medgan.synthesis.generate import generate
from tests.bench.__main__ import machine
from tests.builders.cohort import pneumonia_cohort
from tests.builders.model import brief_model


class Killer(threading.Thread):
    """Kills the largest worker of this process's cluster every `seconds`, until `stop` is set."""

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.seconds, self.stop, self.killed = seconds, threading.Event(), 0

    def run(self) -> None:
        """Every `seconds`; SIGKILL gives a worker no say."""
        while not self.stop.wait(self.seconds):
            workers = [child for child in psutil.Process().children() if _is_worker(child)]
            if workers:
                os.kill(max(workers, key=lambda child: child.memory_info().rss).pid, signal.SIGKILL)
                self.killed += 1


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "from multiprocessing.spawn" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def main() -> int:
    """The exit status says whether a byte differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=81_920)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills")
    parser.add_argument("--blocks", type=int, default=512, help="images a block in the killed run")
    options = parser.parse_args()
    sys.stdout.write(f"machine: {machine()}; {options.images} images of 32 px\n")
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder))
        model = brief_model(pneumonia_cohort(zones, images=400), zones)
        spec = CohortSpec(images=options.images, seed=11)
        calm, rough, alone = (
            dataclasses.replace(zones, synthetic=Path(folder) / name) for name in ("calm", "rough", "alone")
        )
        expected = generate(model, spec, zones=calm, workers=2)
        killer = Killer(options.every)

        def begun(done: int, _: int) -> None:
            if done and not killer.is_alive() and not killer.stop.is_set():
                killer.start()

        made = generate(model, spec, zones=rough, run=Run(workers=2, block_images=options.blocks, on_progress=begun))
        killer.stop.set()
        single = generate(model, spec, zones=alone, run=Run(workers=1, block_images=256))
        same = made == single == expected and synthetic.load(made, zones=rough).labels.equals(
            synthetic.load(expected, zones=calm).labels
        )
    verdict = "the same" if same else "OTHER"
    sys.stdout.write(
        f"workers killed {killer.killed}; blocks of 1024, 256 and (killed) {options.blocks}: {verdict} bytes\n"
    )
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
