"""How fast each recipe trains and generates here: `python -m medgan.gan.bench [RECIPE ...]`.

Prints images a second and a CPU-second, floating-point operations, the fraction of this machine's measured matrix
peak, and memory. Needs numpy, torch and safetensors only. Recipes for a device that is not here are left out, aloud.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from medgan.errors import MedganError
from medgan.gan import recipes
from medgan.gan.arithmetic import fixed
from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet
from medgan.gan.step import Players, play

_PEAK_SIZE = 1024


class Speed(NamedTuple):
    """What one recipe does here."""

    train_per_second: float
    train_per_cpu_second: float
    train_gflop_an_image: float
    fraction_of_peak: float
    generate_per_second: float
    parameters: int


def measure(config: TrainConfig, *, seconds: float, peak_gflops: float) -> Speed:
    """Play rounds for about `seconds` after a warm-up and a count of operations, then generate for as long."""
    rng = np.random.default_rng(0)
    images = TrainingSet(
        pixels=rng.integers(0, 65536, (4 * config.batch, *[config.size_px] * config.dims), dtype=np.uint16),
        class_index=np.arange(4 * config.batch) % 2,
        classes=("a", "b"),
        lo=0.0,
        hi=65535.0,
    )
    with fixed(config.threads):
        players = Players.start(config, 2)
        play(config, players, images)
        with FlopCounterMode(display=False) as counter:
            for _ in range(config.penalty_every):
                play(config, players, images)
        gflop = counter.get_total_flops() / 1e9 / config.penalty_every / config.batch
        wall, cpu, rounds = _repeat(lambda: play(config, players, images), seconds, at_least=config.penalty_every)
        z = torch.zeros(16, config.latent_dim, device=config.device)
        c = torch.zeros(16, dtype=torch.int64, device=config.device)
        with torch.inference_mode():
            made_wall, _, made = _repeat(lambda: players.average(z, c), seconds / 4, at_least=1)
    shown = rounds * config.batch
    return Speed(
        train_per_second=shown / wall,
        train_per_cpu_second=shown / cpu,
        train_gflop_an_image=gflop,
        fraction_of_peak=gflop * shown / wall / peak_gflops,
        generate_per_second=16 * made / made_wall,
        parameters=sum(
            p.numel() for network in (players.generator, players.discriminator) for p in network.parameters()
        ),
    )


def _repeat(work: Callable[[], object], seconds: float, *, at_least: int) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and repetitions of `work`, in multiples of `at_least`, for about `seconds`."""
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        for _ in range(at_least):
            work()
        count += at_least
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, count


def matrix_peak_gflops(device: str, threads: int, precision: str) -> float:
    """Best of several square matrix products in the recipe's precision: the peak that convolutions are held against."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(_PEAK_SIZE, _PEAK_SIZE, device=device).to(kind)
    with fixed(threads), torch.inference_mode():
        times = [_repeat(lambda: a @ a, 0.1, at_least=4) for _ in range(5)]
    return max(2 * _PEAK_SIZE**3 * count / wall / 1e9 for wall, _, count in times)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; exit status 2 on an unknown recipe."""
    parser = argparse.ArgumentParser(prog="python -m medgan.gan.bench", description=__doc__)
    parser.add_argument("recipes", nargs="*", help="recipes, or systems with a size such as dcgan_64; all if none")
    parser.add_argument("--seconds", type=float, default=5.0, help="of training for each recipe")
    given = parser.parse_args(arguments)
    try:
        configs = [recipes.build(name) for name in given.recipes or sorted(recipes.RECIPES)]
    except MedganError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    print(f"{'recipe':18}{'train/s':>9}{'/CPU-s':>9}{'GFLOP':>8}{'of peak':>9}{'generate/s':>12}{'parameters':>12}")
    for config in configs:
        if config.device == "cuda" and not torch.cuda.is_available():
            print(f"{config.recipe:18}  left out: no GPU here")
            continue
        peak = matrix_peak_gflops(config.device, config.threads, config.precision)
        s = measure(config, seconds=given.seconds, peak_gflops=peak)
        print(
            f"{config.recipe:18}{s.train_per_second:9.1f}{s.train_per_cpu_second:9.1f}{s.train_gflop_an_image:8.3f}"
            f"{s.fraction_of_peak:9.0%}{s.generate_per_second:12.0f}{s.parameters:12,}"
        )
    print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
