"""`python -m medgan.gan IMAGES.npz --out FOLDER`: train from plain arrays with numpy, torch and safetensors alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medgan.errors import MedganError
from medgan.gan import board, recipes
from medgan.gan.fit import Tick, fit
from medgan.gan.images import read_plain
from medgan.gan.parallel import joined


def main(arguments: list[str] | None = None) -> int:
    """Train and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m medgan.gan", description=__doc__)
    parser.add_argument("images", type=Path, help=".npz with `images` (N, S, S) integers and `labels` (N,), or .npy")
    parser.add_argument("--labels", type=Path, help=".npy of class indices beside an .npy of images")
    parser.add_argument("--conditions", nargs="*", default=[], metavar="NAME", help="further arrays of the .npz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run goes on")
    parser.add_argument("--recipe", default="xray_32_cpu", help="a recipe, or a system and a size: dcgan_32")
    parser.add_argument("--kimg", type=float, help="thousands of real images to show; the recipe's own if not given")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        config = recipes.build(given.recipe, seed=given.seed, total_kimg=given.kimg)
        images = read_plain(given.images, given.labels, names=given.conditions)
        with joined() as world:  # torchrun --nproc-per-node N -m medgan.gan ... shares each batch
            trained = fit(images, config, given.out, on_tick=board.beside(_show, given.out), world=world)
            leads = world.leads
    except MedganError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    if leads:
        sys.stdout.write(f"trained {trained.kimg:g} kimg in {trained.seconds:.0f} s\n")
    return 0


def _show(tick: Tick) -> None:
    sys.stdout.write(
        f"{tick.kimg:8.1f}/{tick.total_kimg:.0f} kimg  {tick.kimg_per_second:.3f} kimg/s  D {tick.loss_d:.3f}  "
        f"G {tick.loss_g:.3f}  D(real) {tick.d_real:+.2f}  D(fake) {tick.d_fake:+.2f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
