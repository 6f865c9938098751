"""Faces cut from real heads under turns, contrasts, noise and slice thicknesses: what of brain and face goes.

`python -m tests.bench.deid_deface` needs Debian's mricron-data (T1 head with its brain drawn) and, for the CT
head, invesalius-examples. A turned head is turned back to be measured: brain voxels removed must be 0, or the volume
refused; the eyes must be gone wherever it is not refused.
"""

from __future__ import annotations

import plistlib
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgan.deid import deface
from medgan.errors import BadInstance
from tests.bench.__main__ import machine
from tests.unit.deid import heads

CRANIUM = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")
TURNS = [(0, 0, 0), (15, 0, 0), (-15, 0, 0), (25, 0, 0), (-25, 0, 0), (0, 12, 0), (0, 0, 10), (10, 8, -8), (-12, -6, 6)]
Case = tuple[str, np.ndarray, np.ndarray]
"""Name, volume (Z, Y, X), affine (column, row, slice) to LPS mm of the head as it lay at first."""


def cases(head: np.ndarray) -> Iterator[Case]:
    """The head turned (pitch, yaw, roll in degrees), with other contrasts, noisy, shaded, in thick slices, padded."""
    rng = np.random.default_rng(7)
    values = head.astype(np.float32)
    plain = np.eye(4)
    tissue = values > 20
    for turn in TURNS:
        yield f"turned {turn}", values, _turned(turn, head.shape)
    inverted = np.where(tissue, np.clip(200 - values, 20, None), 0).astype(np.float32)
    for name, changed in (
        ("noise 5 %", values + rng.normal(0, 12, values.shape)),
        ("noise 10 %", values + rng.normal(0, 25, values.shape)),
        ("shaded", values * np.linspace(0.6, 1.4, values.shape[1])[None, :, None]),
        ("dark fluid bright (T2-like)", inverted),
        ("air around", np.pad(values, ((0, 20), (30, 30), (40, 40)))),
    ):
        shift = np.eye(4)
        if name == "air around":
            shift[:3, 3] = (-40, -30, 0)
        yield name, changed.astype(np.float32), shift
    for step in (3, 5):
        thick = np.diag([1.0, 1.0, step, 1.0])
        yield f"slices of {step} mm", values[step // 2 :: step], thick @ _moved(step)
    yield "sagittal", values.transpose(2, 0, 1)[:, ::-1], _sagittal(head.shape)
    yield "lower half missing", values[70:], plain @ _up(70)


def _moved(step: int) -> np.ndarray:
    moved = np.eye(4)
    moved[2, 3] = (step // 2) / step
    return moved


def _up(rows: int) -> np.ndarray:
    moved = np.eye(4)
    moved[2, 3] = rows
    return moved


def _turned(turn: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Affine that puts the head turned about its middle into the scanner."""
    pitch, yaw, roll = turn
    middle = np.array(shape[::-1]) / 2
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xzy", (pitch, yaw, roll), degrees=True).as_matrix()
    affine[:3, 3] = middle - affine[:3, :3] @ middle
    return affine


def _sagittal(shape: tuple[int, ...]) -> np.ndarray:
    """Columns run to the back, rows to the feet, slices to the left."""
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = 1, -1, 1, 1
    affine[2, 3] = shape[0] - 1
    return affine


def measure(volume: np.ndarray, affine: np.ndarray, brain: np.ndarray) -> tuple[int, float]:
    """Brain voxels removed and share of the eyes removed, on the head's own 1 mm grid in the scanner's place."""
    cut = deface.find(volume, affine, hounsfield=False)
    placed = affine if volume.shape == brain.shape else np.eye(4)
    zyx = np.argwhere(brain)
    if not cut.whole:  # it holds for this volume only
        inside = (zyx - affine[2, 3]) / affine[2, 2] >= 0
        zyx = zyx[inside[:, 0]]
    removed = int(cut.removes(zyx[:, ::-1] @ placed[:3, :3].T + placed[:3, 3]).sum())
    ball = np.argwhere(np.linalg.norm(np.indices((25, 25, 25)) - 12, axis=0) <= 12) - 12
    front = [eye + ball[ball[:, 1] < 0] for eye in np.array(heads.EYES_MM)]
    shares = [cut.removes(eye[:, ::-1] @ placed[:3, :3].T + placed[:3, 3]).mean() for eye in front]
    return removed, float(np.mean(shares))


def ct_head() -> tuple[np.ndarray, np.ndarray]:
    """InVesalius's cranium in HU, face first, with its affine."""
    with tarfile.open(CRANIUM) as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive.getmembers()}
        matrix = plistlib.load(files["main.plist"])["matrix"]
        volume = np.frombuffer(files["matrix.dat"].read(), "<i2").reshape(matrix["shape"])[:, ::-1]
    return volume, np.diag([0.957, 0.957, 1.5, 1.0])


def main() -> int:
    """Print a line a case; fails when a brain voxel went, or when less than half of the plain cases are cut."""
    if not (heads.TEMPLATES / "ch2.nii.gz").is_file():
        sys.stdout.write("mricron-data is not installed: nothing was measured\n")
        return 0
    sys.stdout.write(f"machine: {machine()}\n")
    head, brain = heads.head(1)
    touched = cut = refused = 0
    for name, volume, affine in cases(head):
        started = time.process_time()
        try:
            removed, eyes = measure(volume, affine, brain)
        except BadInstance as refusal:
            refused += 1
            said = f"refused {refusal.reason}"
        else:
            cut, touched = cut + 1, touched + (removed > 0)
            said = f"{removed} of {int(brain.sum())} brain voxels removed, {100 * eyes:.0f} % of the eyes' front"
        sys.stdout.write(f"  {name:32} {said}, {time.process_time() - started:.1f} s\n")
    if CRANIUM.is_file():
        volume, affine = ct_head()
        removed_by = deface.find(volume, affine, hounsfield=True)
        points = np.stack(np.meshgrid(*(np.arange(size) for size in volume.shape), indexing="ij"), -1)[..., ::-1]
        gone = removed_by.removes(points * np.diag(affine)[:3])
        inner = ndimage.binary_fill_holes(volume > 300)
        sys.stdout.write(f"  CT cranium: cut, {100 * gone[inner].mean():.1f} % of the skull and what it encloses\n")
    sys.stdout.write(f"{cut} cut, {refused} refused, {touched} with a brain voxel removed\n")
    return int(touched > 0 or cut < len(TURNS))


if __name__ == "__main__":
    sys.exit(main())
