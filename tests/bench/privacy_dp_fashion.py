"""Differential privacy at epsilon 10 on Fashion-MNIST, in minutes of one core: what a classifier learns from it.

    python -m tests.bench.privacy_dp_fashion [--idx FOLDER] [--kimg 460] [--epsilon 10]

60,000 training images, each its own patient, padded to 32 px; delta 1e-5 as in the papers. A forest trained on
synthetic images is tested on the real test split (TSTR), beside the same forest trained on as many real images.
FOLDER holds the four files of Zalando Research (Debian: dataset-fashion-mnist).
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier

from medgan.gan import recipes
from medgan.gan.accountant import Ledger
from medgan.gan.config import DP
from medgan.gan.fit import Private, Tick, fit
from medgan.gan.images import TrainingSet
from medgan.gan.private import Noise
from medgan.gan.sample import Sampler
from tests.bench.__main__ import machine

CLASSES, MADE = 10, 10_000


def read(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def images(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32) uint8 and (N,) classes."""
    pixels = read(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return np.pad(pixels, ((0, 0), (2, 2), (2, 2))), read(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)


def accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    forest = ExtraTreesClassifier(200, n_jobs=1, random_state=0)
    forest.fit(train[0].reshape(len(train[0]), -1), train[1])
    return float(forest.score(test[0].reshape(len(test[0]), -1), test[1]))


def main() -> None:
    """Train, draw, classify, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--idx", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--kimg", type=float, default=460.0)
    parser.add_argument("--epsilon", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if not options.idx.is_dir():
        sys.exit("Fashion-MNIST is not here: install dataset-fashion-mnist or give --idx FOLDER")
    started = time.process_time()
    pixels, classes = images(options.idx, "train")
    config = replace(
        recipes.private(recipes.build("r3_dcgan_32", total_kimg=options.kimg), DP(epsilon=options.epsilon, delta=1e-5)),
        widths=(128, 64, 32),
        widths_d=(64, 32, 16),
        batch=options.batch,
        learning_rate=options.rate,
        tick_kimg=options.kimg / 10,
        ema_half_life_kimg=5.0,
    )
    training = TrainingSet(
        pixels=pixels, class_index=classes, classes=tuple(map(str, range(CLASSES))), lo=0.0, hi=255.0
    )
    spent: list[Noise] = []

    def tell(tick: Tick) -> None:
        print(f"  {tick.kimg:7.1f} kimg, D on fakes {tick.d_fake:+.2f}, {time.process_time() - started:.0f} CPU-s")  # noqa: T201

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        owners = np.arange(len(pixels)).astype(object)
        fit(
            training,
            config,
            place,
            on_tick=tell,
            private=Private(patients=owners, reserve=lambda _run, noise: spent.append(noise)),
        )
        trained = time.process_time() - started
        ids = np.arange(MADE, dtype=np.int64)
        made = Sampler(place).images(ids, ids % CLASSES, seed=0)
        if options.picture:
            options.picture.write_bytes(max((place / "grids").iterdir()).read_bytes())
    test = images(options.idx, "t10k")
    rows = np.random.default_rng(0).permutation(len(pixels))[:MADE]
    (noise,) = spent
    ledger = Ledger([noise.steps])
    print(f"machine: {machine()}; {trained:.0f} CPU-seconds of training, {noise.count} steps, rate {noise.rate:.4f}")  # noqa: T201
    print(f"sigma {noise.sigma:.3f}: epsilon {ledger.epsilon(1e-5):.2f} (PRV) at delta 1e-5, ", end="")  # noqa: T201
    print(f"{ledger.epsilon(1 / (10 * len(pixels))):.2f} at 1 / (10 N)")  # noqa: T201
    print(f"TSTR accuracy {accuracy((made, ids % CLASSES), test):.3f}, ", end="")  # noqa: T201
    print(f"real on real {accuracy((pixels[rows], classes[rows]), test):.3f} ({MADE} training images each)")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
