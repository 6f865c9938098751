"""Label fidelity of a trained generator, as drawn and with the label check, beside the classifier on real images.

    python -m tests.bench.synth_fidelity [--kimg 24] [--images 2048] [--attempts 8]

The classifier is the in-domain one (`quality.classifier`), trained on the real train split; "real" is its accuracy on
real holdout images of the same class mix. At most 3 points should lie between the two.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from medgan.cohort import synthetic
from medgan.quality import classifier
from medgan.records import CohortSpec
from medgan.settings import Zones
from medgan.synthesis.fidelity import measured
from medgan.synthesis.generate import class_index_of, generate
from tests.bench.__main__ import machine
from tests.builders.cohort import pneumonia_cohort
from tests.builders.model import brief_model

POINTS = 0.03


def main() -> int:
    """Print both; the exit status says whether the checked cohort is farther than 3 points from real images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kimg", type=float, default=24.0)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--attempts", type=int, default=8)
    options = parser.parse_args()
    sys.stdout.write(f"machine: {machine()}; xray_32_cpu, {options.kimg} kimg, {options.images} images\n")
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder))
        model = brief_model(pneumonia_cohort(zones), zones, kimg=options.kimg)
        plain = generate(model, CohortSpec(images=options.images), zones=zones)
        checked = generate(model, CohortSpec(images=options.images, redraw_attempts=options.attempts), zones=zones)
        loaded = synthetic.load(plain, zones=zones)
        judge = classifier.of_model(model, zones)
        wanted = class_index_of(loaded.labels, model)
        seen = judge.sees(loaded.images, loaded.attrs, loaded.labels["id"].to_numpy()) == wanted
        before = measured(model, seen, wanted, zones=zones)
    after = checked.fidelity
    assert after is not None
    for name, told in (("as drawn", before), ("label check", after)):
        sys.stdout.write(
            f"{name:12} recognised {told.synthetic:.3f}, real {told.real:.3f}, gap {told.synthetic - told.real:+.3f}\n"
        )
    sys.stdout.write(f"rows drawn again: {checked.redrawn} of {checked.images}\n")
    return int(abs(after.synthetic - after.real) > POINTS)


if __name__ == "__main__":
    sys.exit(main())
