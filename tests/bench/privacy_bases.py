"""Does the gate find in a site's release what the model behind it memorised?

`python -m tests.bench.privacy_bases --people 200 --keep DIR`. A base learns from `--people` radiographs (with 200 it
memorises some of them, with 2,000 it hardly does), is adapted to some 400 of another archive and scanner, and its
images are judged: by the site's cohort alone, and as the gate does, beside whatever any stage learned from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgan.cohort import prepare, synthetic
from medgan.gan import site, train
from medgan.privacy import attack, policy, stages
from medgan.records import AdaptRequest, CohortSpec, TrainRequest, ValidatedCohort
from medgan.settings import Zones
from medgan.synthesis.generate import generate
from tests.bench.__main__ import machine
from tests.bench.personal_site import another_scanner, say, told
from tests.builders.cohort import commit, handle, radiographs, xray_recipe, xray_rows

STRANGERS, SITE = 900, 1300


def cohort(pixels: np.ndarray, labels: np.ndarray, name: str, zones: Zones, *, train_share: float) -> ValidatedCohort:
    """One patient an image, of nobody else's collection; what is no train patient is in a holdout, half in each."""
    rows = xray_rows(pixels, labels)
    rows = rows.assign(patient_key=[handle("pt", f"{name} {source}") for source in rows["source"]])  # type: ignore[arg-type]
    snapshot = commit(rows.sort_values(["patient_key", "study_key", "series_key"]), pixels, zones, name)
    recipe = xray_recipe(32, train_fraction=train_share, holdout_fraction=(1 - train_share) / 2)
    made = prepare.prepare(snapshot, recipe, zones=zones)
    return ValidatedCohort(cohort=made, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, adapt, draw, judge, print what did not pass."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.privacy_bases", description=__doc__)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--kimg", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--recipe", default="r3_dcgan_32")
    parser.add_argument("--keep", type=Path, required=True)
    given = parser.parse_args(arguments)
    say(machine())
    zones, begun = Zones.under(given.keep), time.process_time()
    pixels, labels = radiographs()
    order = np.random.default_rng(0).permutation(len(pixels))
    there, here = order[:SITE], order[SITE:][: given.people + STRANGERS]
    share = given.people / (given.people + STRANGERS)
    source = cohort(pixels[here], labels[here], "main", zones, train_share=share)
    north = cohort(another_scanner(pixels[there]), labels[there], "north", zones, train_share=0.3)
    base = train.train(source, TrainRequest(recipe=given.recipe, total_kimg=given.kimg), zones=zones)
    model = site.adapt_to_site(base, north, AdaptRequest(steps=given.steps), zones=zones)
    say(f"base: {source.cohort.patients}; site: {north.cohort.patients}; {time.process_time() - begun:.0f} CPU-s")
    made = generate(model, CohortSpec(images=1024), zones=zones, workers=1)
    limits, begun = policy.load("internal"), time.process_time()
    report = attack.attack(made, north, zones=zones, policy="internal")
    told([test for test in report.tests if not test.passed], "beside every stage", report.verdict)
    say(f"  {time.process_time() - begun:.0f} CPU-s")
    own = stages.stages(model.model, north.cohort, zones=zones)[0]
    images, _, attrs, _ = synthetic.load(made, zones=zones)
    tests, _ = attack.assess(stages.views(images, attrs, ())[""], own.real[""], limits)
    verdict = attack.decide(tests, limits, holdout_patients=min(own.counts["holdout-1 patients"], 10**6))
    told([test for test in tests if not test.passed], "beside the site's cohort alone", verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
