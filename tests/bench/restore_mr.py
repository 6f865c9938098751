"""Restoration of real MR slices, volumes of other people than those learned from: `python -m tests.bench.restore_mr`.

Learns from the T1 volumes of Debian's mricron-data (Colin 27 twice, the INIA19 monkey atlas) and is tested on nilearn's
MNI152 average, of which no slice was seen (without nilearn: learns without Colin 27, tests on him). Each task trains
networks of one size: the conditional GAN, the same with L1 alone, and a plain U-Net with L1. Beside them: zero-filled
k-space, bicubic (aligned to the same grid), total variation and non-local means (scikit-image, both with and without
the Rician bias removed and at the best weight of a small sweep on the test images, which favours them). Then: other
modalities, and planted lesions.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from medgan.gan import checkpoint, repair, restore
from medgan.gan.degrade import TASKS
from medgan.gan.holes import Holes, dropped, patches, strokes
from medgan.gan.jpeg import Jpeg
from medgan.gan.measurement import SIGNAL, Measurement
from medgan.gan.planted import plant
from medgan.gan.repair import Restorer
from medgan.gan.restore_config import RestoreConfig
from medgan.gan.scans import Scans
from medgan.restoration import learn
from medgan.restoration.measure import psnr_db, spectrum_distance_db, ssim
from tests.bench.__main__ import machine

TEMPLATES = Path("/usr/share/mricron/templates")
COLIN, COLIN_FINE, COLIN_BRAIN, MONKEY = (
    TEMPLATES / f"{name}.nii.gz" for name in ("ch2", "ch2better", "ch2bet", "inia19-t1-brain")
)
MNI = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
TASK_NAMES = ("super-resolution-x2", "super-resolution-x4", "denoise", "inpaint", "compression")


def volume(path: Path) -> np.ndarray:
    import gzip

    slices = learn.nifti_frames(gzip.decompress(path.read_bytes()))
    lo, hi = np.percentile(slices, (0.1, 99.9))
    return (np.clip((slices - lo) / (hi - lo), 0, 1) * 2 - 1).astype(np.float32)


def template(mni: Path | None) -> Path | None:
    """MNI152: the file that is given, or nilearn's; None where neither is there."""
    found = importlib.util.find_spec("nilearn") if mni is None else None
    return Path(str(found.submodule_search_locations[0])) / MNI if found is not None else mni


def volumes(mni: Path | None) -> tuple[Scans, list[np.ndarray], str]:
    """Training images in three orientations (the monkey calibrates), test slices, and what they are."""
    mni = template(mni)
    learned = [COLIN, COLIN_FINE, COLIN_BRAIN, MONKEY] if mni is not None else [MONKEY]
    train: list[np.ndarray] = []
    whose: list[int] = []
    for path in learned:
        whole = volume(path)
        step = 2 if len(whole) < 250 else 3
        for axis in range(3):
            planes = np.moveaxis(whole, axis, 0)
            train += [np.ascontiguousarray(one) for one in planes[len(planes) // 6 : 5 * len(planes) // 6 : step]]
        whose += [int(path == MONKEY)] * (len(train) - len(whose))
    order = np.random.default_rng(0).permutation(len(train))
    whole = volume(mni or COLIN)
    middle = whole[len(whole) // 4 : 3 * len(whole) // 4 : len(whole) // 20]
    test = [one[: one.shape[0] // 8 * 8, : one.shape[1] // 8 * 8] for one in middle]
    scans = Scans(images=[train[i] for i in order], patient=np.array(whose)[order])
    return scans, test, "MNI152 (nilearn)" if mni else "Colin 27"


class Trained(NamedTuple):
    """What one task's images are restored by, and the CPU-seconds of the plain network and of medgan's training."""

    gan: Restorer
    alone: Restorer
    plain: Restorer
    seconds: dict[str, float]


MR = {"modality": "MR"}


def fit_all(task: str, scans: Scans, steps: int, adversarial: int, keep: Path, attrs: dict[str, Any] = MR) -> Trained:
    """The conditional GAN, the same without its second phase, and a plain U-Net with L1.

    GAN and L1 alone are one run for `steps`, where they part, then `adversarial` each. The plain network is trained as
    such networks are, by Adam on windows as they are, for a quarter more steps: about as many CPU-seconds.
    """
    gan = RestoreConfig(task=task, steps=steps, adversarial_steps=adversarial, tick_steps=100)
    alone = replace(gan, steps=steps + adversarial, adversarial_steps=0)
    plain = replace(alone, steps=round(1.25 * alone.steps), optimiser="adam", learning_rate=1e-3, stripped_share=0.0)
    folders = {config: keep / f"{task}-{name}" for config, name in ((gan, "gan"), (alone, "l1"), (plain, "plain"))}
    seconds = {}

    def part(tick: restore.Progress) -> None:
        if tick.step == steps:
            players = restore.start(alone)
            checkpoint.load_state(folders[alone] / restore.STATE, players, config_sha256=alone.digest)
            folders[gan].mkdir(parents=True, exist_ok=True)
            checkpoint.save_state(folders[gan] / restore.STATE, players, seconds=0.0, config_sha256=gan.digest)

    def finished(config: RestoreConfig, name: str) -> Restorer:
        begun = time.process_time()
        folder = folders[config]
        done = (folder / repair.DESCRIPTION).is_file()
        on_tick = part if config is alone else None
        made = Restorer(folder) if done else restore.fit(scans, config, folder, attrs=attrs, on_tick=on_tick)
        seconds[name] = time.process_time() - begun
        return made

    made = [finished(config, name) for config, name in ((alone, "L1 alone"), (gan, "second phase"), (plain, "U-Net"))]
    return Trained(gan=made[1], alone=made[0], plain=made[2], seconds=seconds)


def cases(task: str, test: list[np.ndarray], quality: int = 10) -> dict[str, list[Measurement]]:
    """The test slices degraded, by the kind of degradation where a task has several."""
    rng = np.random.default_rng(1)
    degradation = TASKS[task].degradation
    if isinstance(degradation, Jpeg):
        return {f"quality {quality}": [degradation.at(one, quality) for one in test]}
    if isinstance(degradation, Holes):
        shares = (degradation.share_from, degradation.share_to)
        kinds = {
            "dropped lines": dropped,
            "blind patches": patches,
            "free-form, 5-40 %": lambda shape, rng: strokes(shape, rng.uniform(*shares), rng),
        }
        return {name: [degradation.without(x, kind(x.shape, rng)) for x in test] for name, kind in kinds.items()}
    return {"": [degradation.measure(one, rng) for one in test]}


def answers(model: Restorer, seen: list[Measurement], views: int = len(repair.FLIPS)) -> list[np.ndarray]:
    with torch.inference_mode():
        return [
            repair.answer(model.network, model.degradation, [one], repair.FLIPS[:views])[0][0, 0].numpy()
            for one in seen
        ]


def bicubic(one: Measurement) -> np.ndarray:
    """Cubic spline through the small image, whose first sample lies on the large image's first."""
    from scipy.ndimage import map_coordinates

    factor = one.shape[0] // one.seen.shape[0]
    where = np.mgrid[: one.shape[0], : one.shape[1]] / factor
    return map_coordinates(one.seen, where, order=3, mode="nearest").astype(np.float32)


def classical(seen: list[Measurement], test: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Each filter on the magnitude, and with its Rician bias removed (m^2 - 2 sigma^2); the best wins."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

    def tv(x: np.ndarray, sigma: float, strength: float) -> np.ndarray:
        return denoise_tv_chambolle(x, weight=strength * sigma)

    def nlm(x: np.ndarray, sigma: float, strength: float) -> np.ndarray:
        options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
        return denoise_nl_means(x, h=strength * sigma, sigma=sigma, **options)

    out: dict[str, list[np.ndarray]] = {}
    for name, smooth, strengths in (("total variation", tv, (0.5, 1, 1.5)), ("non-local means", nlm, (0.4, 0.7, 1.0))):
        tried = []
        for strength in strengths:
            plain = [smooth(one.seen, one.level, strength) for one in seen]
            bias = [(one.level / 2) ** 2 * 2 for one in seen]  # of the magnitude in [0, 1], whose sigma is half
            magnitude = [np.clip((x + 1) / 2, 0, None) for x in plain]
            tried += [plain, [2 * np.sqrt(np.maximum(m**2 - b, 0)) - 1 for m, b in zip(magnitude, bias, strict=True)]]
        out[name] = max(tried, key=lambda made: mean_psnr(made, test))
    return out


def mean_psnr(made: list[np.ndarray], test: list[np.ndarray]) -> float:
    return float(np.mean([psnr_db(a, b) for a, b in zip(made, test, strict=True)]))


def row(name: str, made: list[np.ndarray], test: list[np.ndarray], seen: list[Measurement], task: str) -> str:
    degradation = TASKS[task].degradation
    pairs = [(a, b, m.hole if m.hole is not None else b >= -1) for a, b, m in zip(made, test, seen, strict=True)]
    psnr = np.mean([psnr_db(a, b, h) for a, b, h in pairs])
    tissue = np.mean([psnr_db(a, b, h & (b > -1)) for a, b, h in pairs if (h & (b > -1)).any()])
    similar = np.mean([ssim(a, b, h) for a, b, h in pairs])
    spectrum = spectrum_distance_db(made, test)
    contradiction = max(
        float(np.sqrt(np.mean(np.square(degradation.residual(np.asarray(a, np.float32), m))))) / 2
        for a, m in zip(made, seen, strict=True)
    )
    return f"{name:22}{psnr:9.2f}{tissue:11.2f}{similar:9.3f}{spectrum:12.2f}{contradiction:16.1e}\n"


def table(kind: str, task: str, trained: Trained, seen: list[Measurement], test: list[np.ndarray]) -> str:
    """Every answer to one kind of degradation; figures of holes are of the holes alone."""
    degradation = trained.gan.degradation
    made = {"plain": [degradation.naive(one) for one in seen]}
    if task == "denoise":
        made |= {"input": [one.seen for one in seen], **classical(seen, test)}
    if task.startswith("super"):
        made["bicubic"] = [bicubic(one) for one in seen]
        made["plain, not negative"] = [
            degradation.project(torch.from_numpy(x)[None, None], [one])[0, 0].numpy()
            for x, one in zip(made["plain"], seen, strict=True)
        ]
    made["U-Net, L1, one view"] = answers(trained.plain, seen, views=1)
    made["U-Net, L1"] = answers(trained.plain, seen)
    made["medgan, L1 alone"] = answers(trained.alone, seen)
    made["medgan"] = answers(trained.gan, seen)
    head = f"{kind:22}{'PSNR dB':>9}{'tissue dB':>11}{'SSIM':>9}{'spectrum dB':>12}{'contradiction':>16}\n"
    return head + "".join(row(name, images, test, seen, task) for name, images in made.items())


def strangers(path: Path | None) -> dict[str, list[np.ndarray]]:
    """Images of other modalities: radiographs, and MedNIST's classes where the archive is given."""
    from tests.builders.cohort import radiographs

    pixels, _ = radiographs(100)
    out = {"chest radiographs": [np.pad(one, 2, mode="edge").astype(np.float64) for one in pixels]}
    if path is not None:
        import csv
        import zipfile

        from PIL import Image

        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("labels.csv"))
            rows = list(csv.DictReader(io.TextIOWrapper(archive.open(name))))[::80]
            for one in rows:
                data = archive.read(name.removesuffix("labels.csv") + one["file"])
                out.setdefault(one["finding"], []).append(np.asarray(Image.open(io.BytesIO(data)), np.float64))
    return out


def foreign(model: Restorer, image: np.ndarray) -> bool:
    return model.strangeness(image.astype(np.float32)) > model.familiar.limit


def lesions(model: Restorer, test: list[np.ndarray], cases: int) -> str:
    """Planted lesions (medgan.gan.planted) in the test slices, beside the rates that go with the model."""

    def bounded(one: Measurement) -> tuple[np.ndarray, np.ndarray]:
        image, _, bound = model.undo(one)
        return image, bound

    def plain(one: Measurement) -> tuple[np.ndarray, np.ndarray]:
        image = model.degradation.naive(one)
        return image, np.zeros_like(image)

    done, without = (plant(model.degradation, test, answer, cases=cases) for answer in (bounded, plain))
    told = []
    for kind in ("removed", "added", "unannounced"):
        count, calibrated = getattr(done, kind), model.planted
        told.append(
            f"{kind} {count} ({100 * count / done.cases:.1f} %; the model counts {calibrated[kind]} of "
            f"{calibrated['cases']} in {calibrated['patients']} patients and states "
            f"{100 * calibrated[f'{kind}_at_most']:.1f} % at most)"
        )
    return (
        f"lesions, of {done.cases}: {'; '.join(told)}\n"
        f"without a network: {without.removed} removed, {without.added} images with an addition\n"
    )


def coverage(model: Restorer, seen: list[Measurement], test: list[np.ndarray]) -> list[float]:
    """Of each image the share of errors in tissue (or in its hole) that lie below the model's bound."""
    out = []
    for one, truth in zip(seen, test, strict=True):
        image, _, bound = model.undo(one)
        out.append(float((np.abs(image - truth) <= bound)[truth > SIGNAL - 1 if one.hole is None else one.hole].mean()))
    return out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restore_mr", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--adversarial", type=int, default=500)
    parser.add_argument("--tasks", nargs="*", default=list(TASK_NAMES))
    parser.add_argument("--mni", type=Path, help="MNI152 T1 (.nii.gz), where nilearn is not installed")
    parser.add_argument("--mednist", type=Path, help="MedNIST (.zip with labels.csv), for other modalities")
    parser.add_argument("--keep", type=Path, help="folder of trained models; interrupted runs go on")
    parser.add_argument("--lesions", type=int, default=200)
    given = parser.parse_args(arguments)
    if not TEMPLATES.is_dir():
        sys.stdout.write("mricron-data is not installed (apt-get install mricron-data): nothing to restore\n")
        return 0
    scans, test, what = volumes(given.mni)
    out = sys.stdout
    out.write(f"{machine()}; {len(scans.images)} slices to learn from, {len(test)} test slices of {what}\n")
    with tempfile.TemporaryDirectory() as scratch:
        for task in given.tasks:
            trained = fit_all(task, scans, given.steps, given.adversarial, given.keep or Path(scratch))
            model = trained.gan
            spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in trained.seconds.items())
            out.write(f"\n{task}: {given.steps} + {given.adversarial} steps; CPU-s: {spent}\n")
            for kind, seen in cases(task, test).items():
                out.write(table(kind, task, trained, seen, test))
                out.flush()
            plain = [model.degradation.naive(one) for one in seen]
            covered = coverage(model, seen, test)
            good = sum(one >= restore.COVERED for one in covered)
            out.write(
                f"errors in tissue below the bound: {100 * median(covered):.1f} % of an image's (median); 95 % or more "
                f"in {good} of {len(covered)} images (nine of ten are meant)\n"
            )
            for name, images in strangers(given.mednist).items():
                refused = sum(foreign(model, x) for x in images)
                out.write(f"refused: {refused} of {len(images)} {name}\n")
            own = sum(foreign(model, m.seen if m.hole is None else n) for m, n in zip(seen, plain, strict=True))
            out.write(f"refused: {own} of {len(seen)} test slices\n")
            if given.lesions:
                out.write(lesions(model, test, given.lesions))
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
