"""Are synthetic radiographs of use on the benchmark's own test set? `python -m tests.bench.gan_utility`.

The recipe of the demo, or another, trains on PneumoniaMNIST's official train split (3,882 images, at 32 px);
classifiers learn on as many synthetic images in the same class shares and are judged on the official test split (624
images of other patients), beside the same classifiers trained on the real train split, and on both together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from medgan.gan import recipes
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.quality.compare import Sample
from medgan.quality.utility import pca_logistic, small_network
from tests.bench.__main__ import machine
from tests.bench.gan_systems import ATTRS, squares
from tests.builders.cohort import FINDINGS, SAMPLES

JUDGES = {"PCA + logistic": pca_logistic, "small network": small_network}


def official(part: str, size_px: int) -> Sample:
    with np.load(SAMPLES, allow_pickle=False) as sample:
        pixels, labels = sample[f"{part}_images"], sample[f"{part}_labels"].reshape(-1).astype(np.int64)
    return Sample(stored=squares(pixels, size_px), class_index=labels, attrs=ATTRS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gan_utility", description=__doc__)
    parser.add_argument("--recipe", default="xray_32_cpu", help="one of 32 px")
    parser.add_argument("--kimg", type=float)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args(arguments)
    out = sys.stdout
    train, test = official("train", 32), official("test", 32)
    held = (test.unit, test.class_index)
    out.write(
        f"{machine()}; {len(train)} train, {len(test)} test images; AUC / balanced accuracy on real test images\n"
    )
    out.write(f"{'trained on':28}" + "".join(f"{name:>20}" for name in JUDGES) + "\n")
    line(out, "real", train, held)
    for seed in range(given.seeds):
        config = replace(recipes.build(given.recipe, seed=seed, total_kimg=given.kimg), conditions=())
        images = TrainingSet(pixels=train.stored, class_index=train.class_index, classes=FINDINGS, lo=0.0, hi=65535.0)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            fit(images, config, Path(folder), attrs=ATTRS)
            spent = time.process_time() - begun
            made = Sampler(Path(folder)).images(np.arange(len(train)), train.class_index, seed=0)
        ours = Sample(stored=made, class_index=train.class_index, attrs=ATTRS)
        line(out, f"synthetic, seed {seed} ({spent:.0f} CPU-s)", ours, held)
        both = Sample(
            stored=np.concatenate([train.stored, made]),
            class_index=np.concatenate([train.class_index, train.class_index]),
            attrs=ATTRS,
        )
        line(out, f"real + synthetic, seed {seed}", both, held)
    return 0


def line(out, name: str, sample: Sample, held: tuple) -> None:
    judged = [judge(sample.unit, sample.class_index, *held) for judge in JUDGES.values()]
    out.write(f"{name:28}" + "".join(f"{f'{u.auc:.3f} / {u.balanced_accuracy:.3f}':>20}" for u in judged) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
