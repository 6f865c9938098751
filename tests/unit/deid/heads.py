"""A real head (Debian's mricron-data: the Colin 27 average of one man, 27 scans, T1, 1 mm) as volumes and DICOM series.

`ch2` is the head, `ch2bet` the same with everything but the brain removed by hand and by FSL.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from medgan.archive import phantom
from tests.unit.deid.builders import read, write

TEMPLATES = Path("/usr/share/mricron/templates")
# Where this head's features lie in its volume (Z, Y, X) mm, feet first, face first: the middle of both eyes.
EYES_MM = ((33.0, 30.0, 58.0), (33.0, 30.0, 124.0))


def need_head() -> None:
    """Skip where the head is not installed; fail where everything has to be."""
    if not (TEMPLATES / "ch2.nii.gz").is_file():
        if os.environ.get("MEDGAN_REQUIRE_TOOLS"):
            pytest.fail("the head is not installed (apt-get install mricron-data)")
        pytest.skip("the head is not installed (apt-get install mricron-data)")


def template(name: str) -> np.ndarray:
    """(Z, Y, X) uint8 at 1 mm in LPS: feet first, face first, right first."""
    raw = gzip.decompress((TEMPLATES / f"{name}.nii.gz").read_bytes())
    sizes = np.frombuffer(raw, "<i2", 3, 42)
    start = int(np.frombuffer(raw, "<f4", 1, 108)[0])
    volume = np.frombuffer(raw, "u1", int(np.prod(sizes.astype(int))), start).reshape(sizes[::-1])
    return volume[:, ::-1, ::-1]


def head(step: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The head and its brain (bool), every `step`-th voxel."""
    return template("ch2")[::step, ::step, ::step], template("ch2bet")[::step, ::step, ::step] > 0


def write_series(volume: np.ndarray, spacing_mm: float, *, modality: str = "MR", **values: object) -> list[bytes]:
    """One axial instance a slice."""
    base = read(phantom.phantom_study(modality=modality)[0])
    base.Rows, base.Columns = volume.shape[1:]
    base.BitsAllocated = base.BitsStored = 16
    base.HighBit, base.PixelRepresentation = 15, 1
    base.RescaleSlope, base.RescaleIntercept = 1, 0
    base.PixelSpacing, base.SliceThickness = [spacing_mm, spacing_mm], spacing_mm
    base.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    base.BodyPartExamined, base.FrameOfReferenceUID = "HEAD", "1.2.826.0.1.3680043.9.7.1"
    for keyword, value in values.items():
        setattr(base, keyword, value)
    series = str(base.SeriesInstanceUID)
    files = []
    for number, image in enumerate(volume):
        base.ImagePositionPatient = [0, 0, number * spacing_mm]
        base.SOPInstanceUID = base.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
        base.InstanceNumber = number + 1
        base.PixelData = image.astype("<i2").tobytes()
        files.append(write(base))
    return files
