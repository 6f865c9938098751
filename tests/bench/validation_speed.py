"""Validation of a statistics table of 100,000 images: every rule by great-expectations, Data Docs included.

    python -m tests.bench.validation_speed [IMAGES]

The facts are those of the 5,002 distinct radiographs, repeated. CPU seconds of one process beside the import; then
what the facts themselves cost for 5,002 images. The limit is 30 s for 100,000.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from medgan.cohort import read
from medgan.settings import Zones
from medgan.validation import admit, expectations, statistics, suites
from tests.bench.__main__ import machine
from tests.builders.cohort import prepared_cohort

Result = TypeVar("Result")


def main(images: int) -> None:
    sys.stdout.write(f"machine: {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="validation-speed-") as scratch:
        zones = Zones.under(scratch)
        cohort = read.load(prepared_cohort(zones), zones=zones)
        facts_seconds, of_images = timed(lambda: statistics.of_cohort(cohort))
        facts = admit.gather(cohort, of_images, zones=zones)
        suite = suites.cohort_suite(frozenset(of_images.columns))
        expectations.run(suite, facts, title="warm")
        large = {about: repeated(frame, images) if len(frame) > 1000 else frame for about, frame in facts.items()}
        docs = Path(scratch) / "docs"
        seconds, findings = timed(lambda: expectations.run(suite, large, title="all", data_docs=docs))
    sys.stdout.write(
        f"facts of {len(of_images):,} images of 32 x 32: {facts_seconds:.2f} s\n"
        f"{len(findings)} rules over {images:,} images and as many source rows: {seconds:.2f} s (limit 30 s)\n"
    )


def repeated(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    return pd.concat([frame] * (-(-rows // len(frame))), ignore_index=True)[:rows]


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    started = time.process_time()
    result = action()
    return time.process_time() - started, result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
