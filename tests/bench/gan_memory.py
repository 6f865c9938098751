"""Does the report tell a generator that remembers? `python -m tests.bench.gan_memory`.

The CPU recipe trains on 64 radiographs and on all of them, without augmentation for the former so that nothing hides
the effect, each for the same number of images. A generator that remembers nothing makes images whose nearest real
image is a training image half of the time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from medgan.gan import recipes
from medgan.gan.config import TrainConfig
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.quality.compare import Sample, compare
from tests.bench.__main__ import machine
from tests.bench.gan_systems import ATTRS, xray


def remembered(config: TrainConfig, train: Sample, holdout: Sample, classes: tuple[str, ...]) -> dict[str, float]:
    """Train, draw 1,024 images, and compare; measures by name."""
    images = TrainingSet(pixels=train.stored, class_index=train.class_index, classes=classes, lo=0.0, hi=65535.0)
    drawn = np.random.default_rng(0).choice(train.class_index, 1024)
    with tempfile.TemporaryDirectory() as folder:
        fit(images, config, Path(folder), attrs=ATTRS)
        made = Sampler(Path(folder)).images(np.arange(1024), drawn, seed=0)
    ours = Sample(stored=made, class_index=drawn, attrs=ATTRS)
    return {m.name: m.value for m in compare(ours, train, holdout, classes=len(classes)).measures}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gan_memory", description=__doc__)
    parser.add_argument("--kimg", type=float, default=30.0)
    given = parser.parse_args(arguments)
    train, holdout, classes = xray(32)
    config = replace(recipes.xray_32_cpu(), total_kimg=given.kimg)
    few = train.take(np.linspace(0, len(train) - 1, 64).round().astype(np.int64))
    sys.stdout.write(
        f"{machine()}; {given.kimg:g} kimg each\n{'trained on':>12}{'nearest is train':>18}{'coverage':>10}\n"
    )
    for sample, chosen in ((few, replace(config, augment_p=0.0)), (train, config)):
        found = remembered(chosen, sample, holdout, classes)
        sys.stdout.write(f"{len(sample):12,}{found['nearest_is_train']:18.3f}{found['coverage']:10.3f}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
