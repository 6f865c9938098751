"""Does a release with masks help to segment with a few real cases? `python -m tests.bench.personal_segmentation`.

`--mednist ZIP`: CT slices of heads (MedNIST, 64 px) brought to 32 px. Nobody outlined these: masks are made by rule
from the stored 64 px, `skull` the largest bright piece, `brain` what it encloses, so the truth is that rule's. Blocks
of 50 neighbours in file order stay on one side, as in the other benches: four in five train the generator and the
outliner that draws its masks, the others are the few cases and the test. `--site` makes few cases and test those of
another scanner: gamma 0.5, a blur of 0.6 px and noise of 4 % of the window, outlined as before. Arms and intervals are
those of `medgan.personal`; Dice is the mean over patients (here: blocks) and structures.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medgan.gan import outliner
from medgan.gan.arithmetic import fixed
from medgan.personal import fit as personal
from medgan.personal import segment
from medgan.personal.cases import Cases, to_masks, to_unit
from medgan.records import PersonalRequest
from tests.bench.__main__ import machine
from tests.bench.personal_few_shot import ATTRS, drawn, generator, site_of

STRUCTURES = ("skull", "brain")
_KIND, _SIDE, _BLOCK = "HeadCT", 32, 50
_BRIGHT, _LEAST_PX = 200, 40


def slices(path: Path) -> np.ndarray:
    """(N, 64, 64) uint8 in the order of the files."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("labels.csv"))
        rows = csv.DictReader(io.TextIOWrapper(archive.open(name)))
        files = [name.removesuffix("labels.csv") + row["file"] for row in rows if row["finding"] == _KIND]
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(file)))) for file in files])


def outlines(image_HW: np.ndarray) -> np.ndarray:
    """(H, W) uint8 by rule: 1 the largest bright piece, 2 what it encloses."""
    from scipy import ndimage

    pieces, count = ndimage.label(image_HW > _BRIGHT)
    mask = np.zeros(image_HW.shape, np.uint8)
    if count:
        sizes = np.bincount(pieces.reshape(-1))[1:]
        bone = pieces == 1 + sizes.argmax()
        inside = ndimage.binary_opening(ndimage.binary_fill_holes(bone) & ~bone)
        if sizes.max() >= _LEAST_PX:
            mask[bone] = 1
        if inside.sum() >= _LEAST_PX:
            mask[inside] = 2
    return mask


def sides(path: Path, *, site: bool) -> tuple[Cases, ...]:
    """Source cases of the generator, others like them, the pool of few cases, and the test; patients are blocks."""
    pixels = slices(path)
    masks = to_masks(np.stack([outlines(one) for one in pixels]), _SIDE)
    unit, block = to_unit(pixels, _SIDE), np.arange(len(pixels)) // _BLOCK
    source = local = Cases(unit=unit, target=masks, patient=block)
    if site:
        noise = np.random.default_rng(0).normal(0, 0.08, unit.shape)
        moved = np.clip(site_of(unit) + noise, -1, 1).astype(np.float32)
        local = Cases(unit=moved, target=masks, patient=block)
    tenth = block % 10
    parts = (source, tenth % 5 != 4), (source, tenth % 5 == 4), (local, tenth == 4), (local, tenth == 9)
    return tuple(cases.rows(np.flatnonzero(chosen)) for cases, chosen in parts)


def masked(cases: Cases, source: Cases, unseen: Cases) -> Cases:
    """Drawn images with the masks that the outliner gives them which learned from the source's pairs."""
    begun = time.process_time()
    with fixed(1):
        images, masks = torch.from_numpy(source.unit)[:, None], torch.from_numpy(source.target.astype(np.int64))
        network = outliner.trained(lambda rows: (images[rows], masks[rows]), len(source), len(STRUCTURES), seed=0)
    spent = time.process_time() - begun
    found = segment.dice(outlined(network, unseen), unseen.target, unseen.patient, len(STRUCTURES))
    said = ", ".join(f"{name} {value:.3f}" for name, value in zip(STRUCTURES, found, strict=True))
    sys.stdout.write(f"outliner: {outliner.STEPS} steps, {spent:.0f} CPU-s; Dice of unseen blocks {said}\n")
    return replace(cases, target=outlined(network, cases))


def outlined(network: outliner.Network, cases: Cases) -> np.ndarray:
    """(N, H, W) uint8 masks, as synthesis draws them."""
    return outliner.outlined(network, stored(cases), ATTRS)


def stored(cases: Cases) -> np.ndarray:
    """(N, H, W) uint16: images as a cohort has them."""
    return np.rint((cases.unit + 1) * 32767.5).astype(np.uint16)


def told(compared: personal.Comparison, request: PersonalRequest) -> str:
    """The table of arms and of what personalised cases gained."""
    lines = []
    for arm, by_shots in compared.values.items():
        for count, values in by_shots.items():
            mean, low, high = personal.interval(values)
            seeds = compared.masks.dice[arm][count] if compared.masks is not None else []
            each = "  ".join(
                f"{name} {np.mean([one[k] for one in seeds]):.3f}" for k, name in enumerate(STRUCTURES) if seeds
            )
            lines.append(f"  {arm:32}{count:5} real  {mean:.3f}  [{low:.3f}, {high:.3f}]  {each}")
    lines += [
        f"  personalised - {one.over:28}{one.shots:5} real  {one.mean:+.3f}  [{one.low:+.3f}, {one.high:+.3f}]"
        f"  {one.verdict}"
        for one in personal.gains(compared)
    ]
    return "\n".join([f"Dice on {len(compared.test)} real images, {request.seeds} seeds", *lines]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.personal_segmentation", description=__doc__)
    parser.add_argument("--mednist", type=Path, required=True)
    parser.add_argument("--kimg", type=float, default=60.0)
    parser.add_argument("--shots", type=int, nargs="*", default=[10, 50, 200])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--site", action="store_true", help="local cases of another scanner")
    parser.add_argument("--keep", type=Path, help="folder of the trained generator; interrupted runs go on")
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{machine()}; one thread\n")
    request = PersonalRequest(task="segmentation", shots=tuple(given.shots), seeds=given.seeds, steps=given.steps)
    source, unseen, pool, test = sides(given.mednist, site=given.site)
    labels = np.zeros(len(source), np.int64)
    with tempfile.TemporaryDirectory() as scratch:
        sampler = generator(stored(source), labels, (_KIND,), given.kimg, (given.keep or Path(scratch)) / _KIND)
        made = drawn(sampler, labels, 2 * request.most_synthetic)
    made = masked(made, source, unseen)
    begun = time.process_time()
    compared = personal.compare(pool, made, request, classes=0, structures=len(STRUCTURES), test=test)
    sys.stdout.write(f"{len(pool)} real cases to draw from, {time.process_time() - begun:.0f} CPU-s\n")
    sys.stdout.write(told(compared, request))
    return 0


if __name__ == "__main__":
    sys.exit(main())
