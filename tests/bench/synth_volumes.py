"""Volumes the whole way: series of a collection, cohort, generator, synthetic volumes, gate, version, NIfTI, DICOM.

    python -m tests.bench.synth_volumes [--patients 200] [--volumes 64] [--kimg 0.032]

Every step is the real verb under the policy `internal`; the generator is trained for a moment, so its volumes are
noise. Prints what each step cost and whether every exported slice is the stored one, in order.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom

import medgan
from medgan.gan.train import train
from medgan.privacy.attack import attack
from medgan.privacy.gate import clear
from medgan.quality.measure import measure
from medgan.records import CohortSpec, TrainRequest
from medgan.release.publish import publish
from medgan.settings import Zones
from medgan.synthesis.generate import generate
from tests.bench.__main__ import machine
from tests.builders.release import request
from tests.builders.volumes import admitted_volumes

T = TypeVar("T")


def step(name: str, do: Callable[[], T]) -> T:
    """Do it and say what it cost this process."""
    started = time.process_time()
    done = do()
    sys.stdout.write(f"  {name:28} {time.process_time() - started:6.1f} CPU-s here\n")
    sys.stdout.flush()
    return done


def main() -> int:
    """The exit status says whether a slice differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--volumes", type=int, default=64)
    parser.add_argument("--kimg", type=float, default=0.032)
    options = parser.parse_args()
    sys.stdout.write(f"machine: {machine()}; {options.patients} patients, {options.volumes} volumes of 32 a side\n")
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder) / "zones")
        cohort = step("prepared and admitted", lambda: admitted_volumes(zones, options.patients))
        recipe = TrainRequest(recipe="mr_volume_32_cpu", total_kimg=options.kimg)
        model = step("trained", lambda: train(cohort, recipe, zones=zones))
        spec = CohortSpec(images=options.volumes, images_per_patient=2, redraw_attempts=1)
        made = step("generated, label check", lambda: generate(model, spec, zones=zones, workers=2))
        quality = step("measured", lambda: measure(made, cohort, zones=zones))
        privacy = step("attacked", lambda: attack(made, cohort, zones=zones, policy="internal"))
        undecided = sum(not test.conclusive for test in privacy.tests)
        sys.stdout.write(f"  {privacy.verdict.value} by {len(privacy.tests)} tests, {undecided} undecided\n")
        for test in privacy.tests:
            if test.conclusive and not test.passed:
                sys.stdout.write(f"    {test.test} {test.title}: {test.value:.4g} against {test.limit:.4g}\n")
        cleared = clear(made, quality, privacy, zones=zones)
        release = step("published", lambda: publish(cleared, request("volumes"), zones=zones))
        version = medgan.open_folder(zones.registry / release.name / release.version)
        nifti = step("exported as NIfTI", lambda: version.export(Path(folder) / "nifti", "nifti"))
        dicom = step("exported as DICOM", lambda: version.export(Path(folder) / "dicom", "dicom"))
        same = all(
            np.array_equal(nifti_volume(nifti, row), volume) and np.array_equal(dicom_volume(dicom, row), volume)
            for row, (volume, _) in enumerate(version)
        )
        studies = {pydicom.dcmread(path).StudyInstanceUID for path in dicom.glob("images/*/0001.dcm")}
    sys.stdout.write(
        f"  {len(version)} volumes of {len(studies)} patients; slices {'as stored' if same else 'OTHER'}\n"
    )
    return int(not same)


def nifti_volume(folder: Path, row: int) -> np.ndarray:
    """(D, H, W) of an exported file."""
    body = gzip.decompress((folder / "images" / f"{row:07d}.nii.gz").read_bytes())
    width, height, depth = np.frombuffer(body, "<i2", 3, 42)
    return np.frombuffer(body, "<u2", offset=352).reshape(depth, height, width)


def dicom_volume(folder: Path, row: int) -> np.ndarray:
    """(D, H, W) of an exported series, by the position of its instances."""
    slices = [pydicom.dcmread(path) for path in (folder / "images" / f"{row:07d}").iterdir()]
    return np.stack([one.pixel_array for one in sorted(slices, key=lambda one: one.ImagePositionPatient[2])])


if __name__ == "__main__":
    sys.exit(main())
