"""Does a release make a model better for a few real cases, and is a model brought to a site by 100 images?

`python -m tests.bench.personal_few_shot`. A generator is trained on real images of some patients; the few real cases
and the test are of others. Arms and intervals are those of `medgan.personal`. The data: PneumoniaMNIST (train patients
train the generator and a share of them are the few cases; the official test split tests), and with `--mednist ZIP` six
kinds of small images split by blocks of neighbours in file order. `--adapt` brings the PneumoniaMNIST generator to a
simulated site (another scanner: gamma 0.5 and a blur) from 100 images and measures the Fréchet distance in an
encoder that learned from real images of the site, before and after, to the site and to the source.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from medgan.gan import adapt, recipes
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.personal import fit as personal
from medgan.personal.cases import Cases, to_unit
from medgan.quality import features
from medgan.quality.distance import frechet
from medgan.records import PersonalRequest
from medgan.records.adapter import AdaptRequest
from tests.bench.__main__ import machine
from tests.bench.gan_systems import mednist
from tests.builders.cohort import FINDINGS, SAMPLES

ATTRS = {"intensity_range": [0, 65535], "rescale_slope": 1 / 65535, "rescale_intercept": 0.0, "units": "1"}


def xray() -> tuple[np.ndarray, np.ndarray, Cases, Cases, tuple[str, ...]]:
    """Stored images and labels for the generator, a pool of few-shot cases, test cases, class names."""
    with np.load(SAMPLES, allow_pickle=False) as held:
        train, val, test = (held[f"{part}_images"] for part in ("train", "val", "test"))
        labels = {part: held[f"{part}_labels"].reshape(-1).astype(np.int64) for part in ("train", "val", "test")}
    order = np.random.default_rng(0).permutation(len(train))
    generator, pool = order[: 3 * len(order) // 4], order[3 * len(order) // 4 :]
    unit = to_unit(train, 32)
    stored = np.rint((unit + 1) * 32767.5).astype(np.uint16)
    few = Cases(unit=unit[pool], target=labels["train"][pool], patient=np.arange(len(pool)))
    held_out = to_unit(np.concatenate([val, test]), 32)
    target = np.concatenate([labels["val"], labels["test"]])
    tested = Cases(unit=held_out, target=target, patient=np.arange(len(target)))
    return stored[generator], labels["train"][generator], few, tested, FINDINGS


def small_images(path: Path) -> tuple[np.ndarray, np.ndarray, Cases, Cases, tuple[str, ...]]:
    train, holdout, classes = mednist(path, 32)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(train))[:12_000]
    held = rng.permutation(len(holdout))

    def cases(rows: np.ndarray) -> Cases:
        return Cases(unit=to_unit(holdout.stored[rows], 32), target=holdout.class_index[rows], patient=rows)

    unit = to_unit(train.stored[order], 32)
    stored = np.rint((unit + 1) * 32767.5).astype(np.uint16)
    return stored, train.class_index[order], cases(held[:1000]), cases(held[1000:3000]), classes


def generator(stored: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], kimg: float, folder: Path) -> Sampler:
    images = TrainingSet(pixels=stored, class_index=labels, classes=classes, lo=0.0, hi=65535.0)
    config = replace(recipes.build("r3_dcgan_32", total_kimg=kimg), augment_flip=False)
    begun = time.process_time()
    fit(images, config, folder, attrs=ATTRS)
    sys.stdout.write(f"generator: {len(stored)} images, {kimg:g} kimg, {time.process_time() - begun:.0f} CPU-s\n")
    return Sampler(folder)


def drawn(sampler: Sampler, labels: np.ndarray, count: int) -> Cases:
    target = np.random.default_rng(1).choice(labels, count)
    made = sampler.images(np.arange(count), target, seed=0)
    return Cases(unit=(made / 32767.5 - 1).astype(np.float32), target=target, patient=np.arange(count))


def few_shot(name: str, parts: tuple, kimg: float, request: PersonalRequest, folder: Path) -> None:
    stored, labels, pool, test, classes = parts
    made = drawn(generator(stored, labels, classes, kimg, folder), labels, 2 * request.most_synthetic)
    begun = time.process_time()
    compared = personal.compare(pool, made, request, classes=len(classes), test=test)
    out = sys.stdout
    out.write(
        f"{name}: AUC on {len(test)} real images, {request.seeds} seeds, {time.process_time() - begun:.0f} CPU-s\n"
    )
    for arm, by_shots in compared.values.items():
        for count, values in by_shots.items():
            mean, low, high = personal.interval(values)
            out.write(f"  {arm:32}{count:5} real  {mean:.3f}  [{low:.3f}, {high:.3f}]\n")
    for one in personal.gains(compared):
        out.write(
            f"  personalised - {one.over:28}{one.shots:5} real  {one.mean:+.3f}  [{one.low:+.3f}, {one.high:+.3f}]"
            f"  {one.verdict}\n"
        )
    whole = personal.compare(
        pool, made, request.model_copy(update={"shots": (len(pool),), "seeds": 2}), classes=len(classes), test=test
    )
    real, synthetic = (float(np.mean(whole.values[arm][len(pool)])) for arm in (personal.REAL, personal.SYNTHETIC))
    out.write(
        f"  synthetic / real only, all {len(pool)} cases: {synthetic:.3f} / {real:.3f} = {synthetic / real:.3f}\n"
    )
    out.flush()


def site_of(unit: np.ndarray) -> np.ndarray:
    """Another scanner: gamma 0.5 and a blur of one pixel."""
    from scipy.ndimage import gaussian_filter

    moved = 2 * ((unit + 1) / 2) ** 0.5 - 1
    return gaussian_filter(moved, (0, 0.6, 0.6)).astype(np.float32)


def adaptation(parts: tuple, kimg: float, steps: int, folder: Path) -> None:
    stored, labels, _, test, classes = parts
    base = generator(stored, labels, classes, kimg, folder)
    source = (stored / 32767.5 - 1).astype(np.float32)
    few, rest = site_of(source[:100]), site_of(test.unit)
    site = TrainingSet(
        pixels=np.rint((few + 1) * 32767.5).astype(np.uint16),
        class_index=labels[:100],
        classes=classes,
        lo=0.0,
        hi=65535.0,
    )
    begun = time.process_time()
    outcome = adapt.adapt(folder, site, AdaptRequest(steps=steps), patients=np.arange(100))
    spent = time.process_time() - begun
    encoder = features.train(site_of(source[100:2100]), labels[100:2100], len(classes))
    real_site, real_source = encoder(rest), encoder(test.unit)
    before = encoder(drawn(base, test.target, 1000).unit)
    merged = folder / "merged"
    merged.mkdir(exist_ok=True)
    from medgan.gan import checkpoint
    from medgan.gan.sample import CONFIG, WEIGHTS

    checkpoint.save_network(merged / WEIGHTS, outcome.network.merged())
    (merged / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    after = encoder(drawn(Sampler(merged), test.target, 1000).unit)
    again = encoder(drawn(Sampler(folder), test.target, 1000).unit)
    to_site, from_site = frechet(before, real_site), frechet(after, real_site)
    kept, was = frechet(again, real_source), frechet(before, real_source)
    sys.stdout.write(
        f"adapted with 100 images, {outcome.steps} steps, {spent:.0f} CPU-s, {100 * outcome.network.share():.1f} % of "
        f"the parameters; nearer to training images than to held-out ones: {outcome.closer_to_train:.2f} "
        f"(stopped early: {outcome.stopped_early})\n"
        f"  Fréchet to the site {to_site:.2f} -> {from_site:.2f} ({100 * (from_site / to_site - 1):+.0f} %), floor "
        f"{frechet(encoder(site_of(source[100:2100])), real_site):.2f}\n"
        f"  Fréchet of the base to the source {was:.2f} -> {kept:.2f} ({100 * (kept / was - 1):+.0f} %)\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.personal_few_shot", description=__doc__)
    parser.add_argument("--kimg", type=float, default=60.0)
    parser.add_argument("--shots", type=int, nargs="*", default=[10, 50, 200])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--adapt-steps", type=int, default=1000)
    parser.add_argument("--mednist", type=Path)
    parser.add_argument("--keep", type=Path, help="folder of trained generators; interrupted runs go on")
    parser.add_argument("--only", choices=["xray", "mednist", "adapt"])
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{machine()}; one thread\n")
    request = PersonalRequest(shots=tuple(given.shots), seeds=given.seeds, steps=given.steps)
    with tempfile.TemporaryDirectory() as scratch:
        keep = given.keep or Path(scratch)
        if given.only in {None, "xray"}:
            few_shot("PneumoniaMNIST", xray(), given.kimg, request, keep / "xray")
        if given.only in {None, "adapt"}:
            adaptation(xray(), given.kimg, given.adapt_steps, keep / "xray")
        if given.mednist is not None and given.only in {None, "mednist"}:
            few_shot("MedNIST", small_images(given.mednist), given.kimg, request, keep / "mednist")
    return 0


if __name__ == "__main__":
    sys.exit(main())
