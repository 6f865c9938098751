"""Low-dose CT of real scans, of other people and scanners than learned from: `python -m tests.bench.restore_ct`.

Learns from one head (InVesalius's Cranium, Debian's invesalius-examples) in three orientations; two other scans of
pydicom's files calibrate; the test is four slices of 512 x 512 px of pydicom-data: two heads, a neck, an abdomen, each
another scanner's. Noise is that of `LowDose`, and for images of half the size that of an independent simulation: photon
counts of 360 views (scikit-image's radon), filtered back projection. Beside medgan: the noisy image, total variation
and non-local means at the best weight of a sweep on the test images, which favours them, and a plain U-Net with L1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from medgan.gan.degrade import TASKS
from medgan.gan.measurement import Measurement
from medgan.gan.noise import LowDose
from medgan.gan.scans import Scans, halved
from medgan.restoration import learn
from medgan.restoration.measure import psnr_db, spectrum_distance_db, ssim
from tests.bench.__main__ import machine
from tests.bench.deid_deface import CRANIUM, ct_head
from tests.bench.restore_mr import answers, coverage, fit_all, foreign, lesions

TASK = "low-dose"
TEST = ("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "bad_sequence.dcm", "explicit_VR-UN.dcm")
CALIBRATE = ("CT_small.dcm", "eCT_Supplemental.dcm")
_LO, _HI = learn.CT_WINDOW
_HU = (_HI - _LO) / 2
_AIR_HU = -300
_SOFT = (-160.0, 240.0)


def unit(hounsfield: np.ndarray) -> np.ndarray:
    return (np.clip((hounsfield - _LO) / (_HI - _LO), 0, 1) * 2 - 1).astype(np.float32)


def scans_of(name: str) -> list[np.ndarray]:
    """The frames of one of pydicom's files, in [-1, 1] of CT's window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these files are there for their oddities
        dataset = pydicom.dcmread(get_testdata_file(name))
        pixels = dataset.pixel_array.astype(np.float64)
    intercept = float(dataset.get("RescaleIntercept", -1024))  # the enhanced one keeps it in its functional groups
    frames = pixels if pixels.ndim == 3 else pixels[None]
    return [unit(one * float(dataset.get("RescaleSlope", 1)) + intercept) for one in frames]


def images() -> tuple[Scans, list[np.ndarray]]:
    volume, _ = ct_head()
    train = []
    for axis in range(3):
        planes = np.moveaxis(volume, axis, 0)
        train += [unit(one) for one in planes[len(planes) // 8 : 7 * len(planes) // 8 : 1 if axis == 0 else 2]]
    held = [frame for name in CALIBRATE for frame in scans_of(name)]
    patient = np.array([0] * len(train) + [1] * len(held))
    return Scans(images=[*train, *held], patient=patient), [scans_of(name)[0] for name in TEST]


def projected(image_HW: np.ndarray, photons: float, rng: np.random.Generator) -> Measurement:
    """The image with what 360 views of `photons` a ray leave of noise: counted, filtered, projected back."""
    from skimage.transform import iradon, radon

    per_pixel = np.clip(1 + ((image_HW + 1) * _HU - 1024) / 1000, 0, None) * 0.0192 * 256 / max(image_HW.shape)
    angles = np.arange(360) / 2
    lines = radon(per_pixel, angles, circle=False)
    counted = np.maximum(rng.poisson(photons * np.exp(-lines)), 1)
    error = iradon(-np.log(counted / photons) - lines, angles, circle=False, output_size=len(image_HW))
    noise = error / (0.0192 * 256 / max(image_HW.shape)) * 1000 / _HU
    return Measurement(seen=(image_HW + noise).astype(np.float32), shape=image_HW.shape, level=float(noise.std()))


def classical(seen: list[Measurement], test: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    filters = {
        "total variation": lambda one, k: denoise_tv_chambolle(one.seen, weight=k * one.level),
        "non-local means": lambda one, k: denoise_nl_means(one.seen, h=k * one.level, sigma=one.level, **options),
    }
    out = {}
    for name, smooth in filters.items():
        tried = [[smooth(one, strength) for one in seen] for strength in (0.5, 1.0, 1.5)]
        out[name] = min(tried, key=lambda made: np.mean([body_error_hu(a, b) for a, b in zip(made, test, strict=True)]))
    return out


def body_error_hu(made: np.ndarray, truth: np.ndarray) -> float:
    body = truth > (_AIR_HU - _LO) / _HU - 1
    return float(np.sqrt(np.mean(np.square(made - truth)[body]))) * _HU


def soft(image: np.ndarray) -> np.ndarray:
    """The image in the window people look at soft tissue in."""
    return np.clip(((image + 1) * _HU + _LO - _SOFT[0]) / (_SOFT[1] - _SOFT[0]), 0, 1) * 2 - 1


def table(kind: str, made: dict[str, list[np.ndarray]], test: list[np.ndarray]) -> str:
    out = f"{kind:26}{'PSNR dB':>9}{'body HU':>9}{'SSIM soft':>11}{'spectrum dB':>13}  HU in the body of each\n"
    for name, answered in made.items():
        pairs = list(zip(answered, test, strict=True))
        each = [body_error_hu(a, b) for a, b in pairs]
        psnr = np.mean([psnr_db(a, b) for a, b in pairs])
        similar = np.mean([ssim(soft(a), soft(b)) for a, b in pairs])
        told = " ".join(f"{one:.1f}" for one in each)
        spectrum = spectrum_distance_db(answered, test)
        out += f"{name:26}{psnr:9.2f}{np.mean(each):9.2f}{similar:11.3f}{spectrum:13.2f}  {told}\n"
    return out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restore_ct", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--adversarial", type=int, default=500)
    parser.add_argument("--keep", type=Path, help="folder of trained models; interrupted runs go on")
    parser.add_argument("--lesions", type=int, default=200)
    given = parser.parse_args(arguments)
    if not CRANIUM.is_file():
        sys.stdout.write(
            "invesalius-examples is not installed (apt-get install invesalius-examples): nothing to learn\n"
        )
        return 0
    scans, test = images()
    out = sys.stdout
    out.write(f"{machine()}; {len(scans.images)} slices to learn from and calibrate with, {len(test)} test slices\n")
    half = [halved(one) for one in test]
    with tempfile.TemporaryDirectory() as scratch:
        attrs = {"modality": "CT", "window": learn.CT_WINDOW}
        trained = fit_all(TASK, scans, given.steps, given.adversarial, given.keep or Path(scratch), attrs)
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in trained.seconds.items())
        out.write(f"\n{TASK}: {given.steps} + {given.adversarial} steps; CPU-s: {spent}\n")
        dose = TASKS[TASK].degradation
        assert isinstance(dose, LowDose)
        for kind in ("25 HU", "75 HU", "25,000 photons, 256 px"):
            truth, rng = (half if kind.endswith("px") else test), np.random.default_rng(1)
            if kind.endswith("px"):
                seen = [projected(one, 25_000, rng) for one in truth]
            else:
                strength = float(kind.split()[0])
                seen = [replace(dose, sigma_from_hu=strength, sigma_to_hu=strength).measure(one, rng) for one in truth]
            made = {"as degraded": [one.seen for one in seen], **classical(seen, truth)}
            made["U-Net, L1, one view"] = answers(trained.plain, seen, views=1)
            made["U-Net, L1"] = answers(trained.plain, seen)
            made["medgan, L1 alone"] = answers(trained.alone, seen)
            made["medgan"] = answers(trained.gan, seen)
            out.write(table(kind, made, truth))
            covered = coverage(trained.gan, seen, truth)
            out.write(f"errors below the bound: {', '.join(f'{100 * one:.1f} %' for one in covered)} of each image\n")
            out.flush()
        own = sum(foreign(trained.gan, one.seen) for one in seen)
        out.write(f"refused: {own} of {len(seen)} test slices\n")
        if given.lesions:
            out.write(lesions(trained.gan, test, given.lesions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
