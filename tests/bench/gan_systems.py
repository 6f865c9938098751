"""Every selectable GAN on the same images for the same CPU-seconds of one thread: `python -m tests.bench.gan_systems`.

PneumoniaMNIST at 32 px, split as everywhere (76 % train, the rest holdout). Each system first plays a few rounds to
learn its speed, then trains for as many images as fit the budget. Numbers are held against the holdout; the first
line is what real train images score. `--seeds` repeats with other seeds; `--mednist ZIP` trains on MedNIST instead
(a folder of `<class>/*.jpg` with `labels.csv`, zipped), split by blocks of neighbours in file order; `--fashion` on
Fashion-MNIST (Debian's `dataset-fashion-mnist`) in its own split, at `--size 16` by averaging 28 px to 14 in a frame.
`--results FOLDER` keeps each trial's figures (`.json`) and images (`.npz`) and reads what is already there: a long
comparison goes on where it was, and where figures were taken away the images are judged again, untrained.
Every system computes in the precision in which this machine is fastest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import median

import numpy as np

from medgan.cohort import resample
from medgan.errors import TrainingDiverged
from medgan.gan import recipes
from medgan.gan.arithmetic import fixed
from medgan.gan.config import TrainConfig
from medgan.gan.fit import GRIDS, fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.gan.step import Players, play
from medgan.quality import coverage, distance, features, realism, utility
from medgan.quality.compare import Sample
from tests.bench.__main__ import machine
from tests.builders.cohort import FINDINGS, radiographs

FASHION = Path("/usr/share/datasets/fashion-mnist")
SHOWN = (
    "frechet", "coverage", "recall", "label_fidelity", "spectrum_high_db",
    "tstr_auc", "tstr_balanced_accuracy", "tstr_network",
)  # fmt: skip
ATTRS = {"intensity_range": [0, 65535], "rescale_slope": 1 / 65535, "rescale_intercept": 0.0, "units": "1"}


def xray(size_px: int) -> tuple[Sample, Sample, tuple[str, ...]]:
    pixels, labels = radiographs()
    held = np.random.default_rng(0).permutation(len(pixels)) >= 0.76 * len(pixels)
    return *_split(squares(pixels, size_px), labels, held), FINDINGS


def mednist(path: Path, size_px: int) -> tuple[Sample, Sample, tuple[str, ...]]:
    """Blocks of 50 files in order stay on one side: neighbours are often one patient."""
    stored, labels, classes = mednist_files(path, size_px)
    return *_split(stored, labels, np.arange(len(labels)) // 50 % 5 == 4), classes


def mednist_files(path: Path, size_px: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Stored images and class numbers in the order of the files, and the classes."""
    import csv
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("labels.csv"))
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open(name))))
        folder = name.removesuffix("labels.csv")
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(folder + r["file"])))) for r in rows])
    classes = tuple(sorted({row["finding"] for row in rows}))
    return squares(pixels, size_px), np.array([classes.index(row["finding"]) for row in rows]), classes


def fashion(size_px: int) -> tuple[Sample, Sample, tuple[str, ...]]:
    """60,000 train and 10,000 test images; at 16 px each 2 x 2 block of the 28 becomes one pixel of the middle 14."""
    import gzip

    def idx(name: str, skip: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((FASHION / f"{name}.gz").read_bytes())[skip:], np.uint8)

    sides = []
    for part in ("train", "t10k"):
        pixels = idx(f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28)
        if size_px == 16:
            small = pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4))
            stored = np.rint(np.pad(small, ((0, 0), (1, 1), (1, 1))) * 257).astype(np.uint16)
        else:
            stored = squares(pixels, size_px)
        labels = idx(f"{part}-labels-idx1-ubyte", 8).astype(np.int64)
        sides.append(Sample(stored=stored, class_index=labels, attrs=ATTRS))
    return *sides, ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def squares(pixels: np.ndarray, size_px: int) -> np.ndarray:
    return np.stack([resample.to_stored(resample.to_square(x.astype(float), size_px), (0, 255)) for x in pixels])


def _split(stored: np.ndarray, labels: np.ndarray, held: np.ndarray) -> tuple[Sample, Sample]:
    train, holdout = (
        Sample(stored=stored[rows], class_index=labels[rows].astype(np.int64), attrs=ATTRS) for rows in (~held, held)
    )
    return train, holdout


def affordable_kimg(config: TrainConfig, images: TrainingSet, seconds: float) -> float:
    """Thousands of images that `seconds` of CPU time pay for, by a trial of about a twentieth of them."""
    with fixed(config.threads):
        players = Players.start(config, len(images.classes))
        for _ in range(config.penalty_every):
            play(config, players, images)
        begun, rounds = time.process_time(), 0
        while time.process_time() - begun < seconds / 20 or rounds % config.penalty_every:
            play(config, players, images)
            rounds += 1
        return rounds * config.batch / 1000 * seconds / (time.process_time() - begun)


class Judge:
    """The report's measures of a sample against one holdout; the encoder is trained once, on the real train split."""

    def __init__(self, train: Sample, holdout: Sample, classes: int) -> None:
        self.train, self.holdout = train, holdout
        self.encoder = features.train(train.unit, train.class_index, classes)
        self.held = self.encoder(holdout.unit)
        self.spectrum = realism.radial_spectrum(holdout.unit.astype(np.float64))

    def measures(self, sample: Sample, taught: Sample | None = None) -> dict[str, float]:
        """`SHOWN` of a sample; `taught` is what the classifier learns from where it is another."""
        taught = taught or sample
        made, equal = self.encoder(sample.unit), min(len(sample), len(self.held))
        near = coverage.prdc(self.held[:equal], made[:equal])
        sides = (taught.unit, taught.class_index, self.holdout.unit, self.holdout.class_index)
        use = utility.pca_logistic(*sides)
        spectrum = realism.radial_spectrum(sample.unit.astype(np.float64))
        values = (
            distance.frechet(made, self.held),
            near.coverage,
            near.recall,
            (self.encoder.sees(sample.unit) == sample.class_index).mean(),
            realism.spectrum_gap(spectrum, self.spectrum, high_only=True),
            use.auc,
            use.balanced_accuracy,
            utility.small_network(*sides).balanced_accuracy,
        )
        return {name: float(value) for name, value in zip(SHOWN, values, strict=True)}

    @cached_property
    def floor(self) -> dict[str, float]:
        """Real train images in the sample's place, as many as there are holdout images."""
        rows = np.random.default_rng(0).permutation(len(self.train))[: max(2048, len(self.holdout))]
        return self.measures(self.train.take(rows), taught=self.train)


def trial(
    config: TrainConfig, referee: Callable[[], Judge], classes: tuple[str, ...], seconds: float, path: Path | None
) -> dict:
    """Judge what the system draws, as many images as the holdout has (2,048 at least), or what lies beside `path`."""
    judge = referee()
    samples = path and path.with_suffix(".npz")
    if samples and samples.is_file():
        with np.load(samples) as file:
            drawn = dict(file)
    else:
        drawn = trained(config, judge.train, classes, seconds, max(2048, len(judge.holdout)), path)
        if samples:
            np.savez_compressed(samples, **drawn)
    ours = judge.measures(Sample(stored=drawn["stored"], class_index=drawn["class_index"], attrs=ATTRS))
    return {"kimg": float(drawn["kimg"]), "spent": float(drawn["spent"]), **ours, "floor": judge.floor}


def trained(
    config: TrainConfig, train: Sample, classes: tuple[str, ...], seconds: float, count: int, path: Path | None
) -> dict:
    """`count` images of a system trained for the budget, their classes, and what the training took."""
    images = TrainingSet(pixels=train.stored, class_index=train.class_index, classes=classes, lo=0.0, hi=65535.0)
    kimg = affordable_kimg(config, images, seconds)
    drawn = np.random.default_rng(0).choice(train.class_index, count)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        fit(images, replace(config, total_kimg=kimg), Path(folder), attrs=ATTRS)
        spent = time.process_time() - begun
        made = Sampler(Path(folder)).images(np.arange(count), drawn, seed=0)
        if path:
            shutil.copy(max((Path(folder) / GRIDS).iterdir()), path.with_suffix(".png"))
    return {"stored": made, "class_index": drawn, "kimg": kimg, "spent": spent}


def line(name: str, values: dict, before: str) -> str:
    return f"{name:14}{before}" + "".join(f"{values[column]:>{max(len(column), 9) + 2}.3f}" for column in SHOWN)


def kept(path: Path | None, work: Callable[[], dict]) -> dict:
    """What lies at `path`, or what `work` gives, put there; a training that broke down is a result too."""
    if path and path.is_file():
        return json.loads(path.read_text())
    try:
        found = work()
    except TrainingDiverged as error:
        found = {"broke": str(error)}
    if path:
        path.write_text(json.dumps(found, sort_keys=True, indent=1))
    return found


def summary(name: str, trials: list[dict]) -> str:
    """Medians of a system's trials; those that broke down are counted beside them."""
    whole = [t for t in trials if "broke" not in t]
    if not whole:
        return f"{name:14}  broke down: {trials[0]['broke']}"
    middle = {key: median(t[key] for t in whole) for key in ("kimg", "spent", *SHOWN)}
    broken = f"  {len(trials) - len(whole)} broke down" if len(whole) < len(trials) else ""
    return line(name, middle, f"{len(whole):6}{middle['kimg']:8.1f}{middle['spent']:7.0f}") + broken


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gan_systems", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU-seconds of one thread for each system")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--mednist", type=Path)
    parser.add_argument("--fashion", action="store_true")
    parser.add_argument("--systems", nargs="*", default=sorted(recipes.SYSTEMS))
    parser.add_argument("--results", type=Path, help="folder of finished trials")
    given = parser.parse_args(arguments)
    if given.fashion:
        cohort, (train, holdout, classes) = "fashion", fashion(given.size)
    elif given.mednist:
        cohort, (train, holdout, classes) = "mednist", mednist(given.mednist, given.size)
    else:
        cohort, (train, holdout, classes) = "xray", xray(given.size)
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
    out = sys.stdout
    out.write(f"{machine()}; one thread, {given.seconds:g} CPU-seconds, medians over seeds\n")
    out.write(f"{len(train)} train, {len(holdout)} holdout images at {given.size} px\n")
    widths = [f"{c:>{max(len(c), 9) + 2}}" for c in SHOWN]
    out.write(f"{'system':14}{'seeds':>6}{'kimg':>8}{'CPU-s':>7}{''.join(widths)}\n")
    referee = cache(partial(Judge, train, holdout, len(classes)))
    floor_told = False
    for name in given.systems:
        config = replace(recipes.build(f"{name}_{given.size}"), precision=recipes.fast_precision())
        trials = []
        for seed in given.seeds:
            path = given.results and given.results / f"{cohort}_{name}_{given.size}_{given.seconds:g}s_{seed}.json"
            work = partial(trial, replace(config, seed=seed), referee, classes, given.seconds, path)
            trials.append(kept(path, work))
        floors = [t["floor"] for t in trials if "floor" in t]
        if floors and not floor_told:
            out.write(line("real", floors[0], " " * 21) + "\n")
            floor_told = True
        out.write(summary(name, trials) + "\n")
        out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
