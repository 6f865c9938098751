"""Real memorisers: our own generator trained on few images, judged by the gate.

    python -m tests.bench.privacy_memorisers [--images 64] [--kimg 60] [--made 1024]

The recipe is the demo's. The train split the gate attacks is the very images the generator saw; the holdouts are the
cohort's own. Prints every test of policy internal and the verdict; `--images 0` trains on the whole train split.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from medgan.cohort import read
from medgan.gan import recipes
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.privacy import attack, policy
from medgan.privacy.views import to_view
from medgan.records import ValidatedCohort
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.cohort import prepared_cohort


def main() -> None:
    """Train, draw, judge, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--kimg", type=float, default=60.0)
    parser.add_argument("--made", type=int, default=1024)
    options = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder))
        snapshot = prepared_cohort(zones, None, 32)
        cohort = ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)
        loaded = read.load(snapshot, zones=zones)
        pixels, classes, _ = loaded.split("train")
        few = slice(0, options.images or len(pixels))
        training_set = TrainingSet(
            pixels=pixels[few], class_index=classes[few], classes=loaded.classes, lo=0.0, hi=65535.0
        )
        place = Path(folder) / "model"
        place.mkdir()
        fit(training_set, recipes.build("xray_32_cpu", total_kimg=options.kimg), place, attrs=loaded.attrs)
        ids = np.arange(options.made, dtype=np.int64)
        made = Sampler(place).images(ids, classes[few][ids % len(classes[few])], seed=0)
        real, _ = attack._real(cohort, zones=zones)
        seen = replace(real, train=real.train[few], train_patients=real.train_patients[few])
        limits = policy.load("internal")
        tests, _ = attack.assess(to_view(made, (0, 65535)), seen, limits)
    verdict = attack.decide(tests, limits, holdout_patients=600, not_applicable=frozenset({"G3", "G7"}))
    print(f"machine: {machine()}; trained on {len(training_set.pixels)} images for {options.kimg:g} kimg")  # noqa: T201
    for test in tests:
        word = "passed" if test.passed else "failed" if test.conclusive else "not decidable"
        print(f"{test.test} {test.title:<90}{test.value:10.4f}{test.limit:9.4f}  {word}")  # noqa: T201
    print(f"{verdict.value}; {time.process_time() - started:.0f} CPU-seconds")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
