"""Which holes are filled well, and does the uncertainty know: `python -m tests.bench.restore_holes`.

Learns to inpaint as `restore_mr` does, or takes a finished model (`--model`). The test slices of `restore_mr` get
free-form holes over a growing share, blind patches and dropped lines. Printed are structural similarity by depth, that
of each connected hole by its width (twice its depth) where most of it lies in tissue, and the rank correlation of error
and bound over the pixels of holes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr

from medgan.gan import filled, restore
from medgan.gan.holes import dropped, patches, strokes
from medgan.gan.measurement import SIGNAL
from medgan.gan.repair import Restorer
from medgan.gan.restore_config import RestoreConfig
from medgan.gan.similarity import ssim_map
from tests.bench.__main__ import machine
from tests.bench.restore_mr import MR, TEMPLATES, volumes

Kind = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
CONFIG = RestoreConfig(task="inpaint", steps=600, adversarial_steps=250)
_WIDTHS_PX = (0, 4, 6, 10, 16, np.inf)


def kinds() -> dict[str, Kind]:
    def free(share: float) -> Kind:
        return lambda shape, rng: strokes(shape, share, rng)

    return {f"free-form {share:.0%}": free(share) for share in (0.05, 0.1, 0.2, 0.3, 0.4)} | {
        "blind patches": patches,
        "dropped lines": dropped,
    }


def parts(similar: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> list[tuple[float, float]]:
    """(width, similarity) of each connected hole that lies mostly in tissue."""
    labels, count = ndimage.label(hole)
    deep, of = filled.depths(hole), range(1, count + 1)
    columns = [ndimage.mean(x, labels, of) for x in (similar, truth > SIGNAL - 1)]
    widest = 2 * np.asarray(ndimage.maximum(deep, labels, of))
    return [(w, s) for w, s, tissue in zip(widest, *columns, strict=True) if tissue > 0.5]


def tell(name: str, model: Restorer, test: list[np.ndarray], kind: Kind) -> list[tuple[float, float]]:
    """Prints one kind of hole's line; its connected holes."""
    rng, cases, wide, pairs, means = np.random.default_rng(5), [], [], [], []
    for truth in test:
        hole = kind(truth.shape, rng)
        image, _, bound = model.undo(model.degradation.without(truth, hole))
        similar = ssim_map(image, truth)
        cases.append((image, truth, hole))
        means.append(similar[hole].mean())
        pairs.append(np.stack([np.abs(image - truth)[hole], bound[hole], truth[hole]]))
        wide += parts(similar, truth, hole)
    found, (error, bound, truth) = filled.by_depth(cases), np.concatenate(pairs, 1)
    tissue = truth > SIGNAL - 1
    covered = [float((one[0] <= one[1]).mean()) for one in pairs]
    follows, within = spearmanr(error, bound)[0], spearmanr(error[tissue], bound[tissue])[0]
    shells = zip(found["depth_px"], found["ssim"], found["tissue"], strict=True)
    sys.stdout.write(
        f"{name:16} SSIM {np.mean(means):.3f}, {sum(one >= filled.GOOD for one in means)} of {len(means)} images good; "
        f"bound follows error {follows:.2f} (tissue {within:.2f})"
        f", covers {np.median(covered):.1%} ({min(covered):.1%} at least)\n"
        f"{'':16} {', '.join(f'{d} px {s:.3f} ({t:.3f})' for d, s, t in shells if t is not None)}\n"
    )
    return wide


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restore_holes", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a restorer for inpainting")
    parser.add_argument("--mni", type=Path, help="MNI152 T1 (.nii.gz), where nilearn is not installed")
    given = parser.parse_args(arguments)
    if not TEMPLATES.is_dir():
        sys.stdout.write("mricron-data is not installed (apt-get install mricron-data): nothing to fill\n")
        return 0
    scans, test, what = volumes(given.mni)
    sys.stdout.write(f"{machine()}; {len(test)} slices of {what}; depth px, SSIM (in tissue)\n")
    with tempfile.TemporaryDirectory() as scratch:
        model = Restorer(given.model) if given.model else restore.fit(scans, CONFIG, Path(scratch), attrs=MR)
    wide = [one for name, kind in kinds().items() for one in tell(name, model, test, kind)]
    for low, high in pairwise(_WIDTHS_PX):
        here = [similar for width, similar in wide if low < width <= high]
        if here:
            good = sum(one >= filled.GOOD for one in here)
            sys.stdout.write(
                f"holes in tissue of {low} to {high} px: {good} of {len(here)} good, {np.mean(here):.3f}\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
