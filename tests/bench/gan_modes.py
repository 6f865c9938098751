"""The 25-Gaussian grid: how many modes each game finds in 20 CPU-seconds: `python -m tests.bench.gan_modes`.

The classic test of mode collapse (Srivastava et al. 2017; Lin et al. 2018): 25 Gaussians of standard deviation 0.05
on a 5 x 5 grid of spacing 2. A mode is found when at least a fifth of its fair share of 10,000 samples lies within
three standard deviations. Networks are three dense layers of 128; the losses and penalties are medgan's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medgan.gan import ema
from medgan.gan.arithmetic import fixed
from medgan.gan.loss import LOSSES, squared_gradients, unit_gradient_penalty
from tests.bench.__main__ import machine

SPACING, SIGMA, SCALE = 2.0, 0.05, 4.0
BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    modes: int
    near: float
    cpu_seconds: float
    finite: bool


def grid(rng: np.random.Generator, count: int) -> torch.Tensor:
    centres = SPACING * (rng.integers(0, 5, (count, 2)) - 2)
    points = centres + SIGMA * rng.standard_normal((count, 2))
    return torch.from_numpy((points / SCALE).astype(np.float32))


def dense(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2),
        nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, outputs),
    )  # fmt: skip


def play(loss: str, seed: int, seconds: float, *, gamma: float = 0.02, rate: float = 1e-3) -> Found:
    """Train one pair for `seconds` of CPU time of one thread and count the modes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    generator, critic, average = dense(2, 2), dense(2, 1), dense(2, 2)
    average.load_state_dict(generator.state_dict())
    g = torch.optim.Adam(generator.parameters(), rate, betas=(0.0, 0.99), fused=True)
    d = torch.optim.Adam(critic.parameters(), rate, betas=(0.0, 0.99), fused=True)
    begun, seen, finite = time.process_time(), 0, True
    while finite and (spent := time.process_time() - begun) < seconds:
        for optimiser in (g, d):
            optimiser.param_groups[0]["lr"] = rate * (1 - 0.9 * spent / seconds)
        real = grid(rng, BATCH).requires_grad_()
        fake = generator(torch.from_numpy(rng.standard_normal((BATCH, 2), dtype=np.float32)))
        cut = fake.detach().requires_grad_()
        real_N, fake_N = critic(torch.cat([real, cut])).squeeze(1).chunk(2)
        total = LOSSES[loss].discriminator(real_N, fake_N)
        if loss == "r3":
            r1_N, r2_N = squared_gradients(torch.cat([real_N, fake_N]), real, cut)
            total = total + gamma / 2 * (r1_N.mean() + r2_N.mean())
        elif loss == "wgan-gp":
            share = torch.from_numpy(rng.random((BATCH, 1), dtype=np.float32))
            between = (share * real + (1 - share) * cut).detach().requires_grad_()
            total = total + unit_gradient_penalty(critic(between).squeeze(1), between)
        d.zero_grad()
        total.backward()
        d.step()
        if loss == "wgan-clip":
            with torch.no_grad():
                for weight in critic.parameters():
                    weight.clamp_(-0.1, 0.1)
        real_N, fake_N = critic(torch.cat([real.detach(), fake])).squeeze(1).chunk(2)
        game = LOSSES[loss].generator(real_N, fake_N)
        g.zero_grad()
        game.backward()
        g.step()
        seen += BATCH
        ema.update(average, generator, ema.decay(BATCH, half_life_images=20_000, seen=seen))
        finite = bool(torch.isfinite(total) and torch.isfinite(game))
    return count_modes(average, rng, time.process_time() - begun, finite=finite)


def count_modes(generator: nn.Module, rng: np.random.Generator, cpu_seconds: float, *, finite: bool) -> Found:
    with torch.inference_mode():
        z = torch.from_numpy(rng.standard_normal((10_000, 2), dtype=np.float32))
        points = generator(z).numpy() * SCALE
    cell = np.rint(points / SPACING)
    near = (np.linalg.norm(points - cell * SPACING, axis=1) < 3 * SIGMA) & (np.abs(cell) <= 2).all(1)
    share = np.bincount(((cell[near] + 2) @ [5, 1]).astype(int), minlength=25)
    return Found(modes=int((share >= 80).sum()), near=float(near.mean()), cpu_seconds=cpu_seconds, finite=finite)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gan_modes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--losses", nargs="*", default=["r3", "gan-ns", "gan-minimax", "hinge", "wgan-gp", "wgan-clip"])
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{machine()}; one thread, {given.seconds:g} CPU-seconds, {given.seeds} seeds\n")
    sys.stdout.write(f"{'loss':12}{'modes of 25, each seed':40}{'near a mode':>12}{'diverged':>10}\n")
    with fixed(1):
        for loss in given.losses:
            found = [play(loss, seed, given.seconds) for seed in range(given.seeds)]
            modes = " ".join(str(f.modes) for f in found)
            near = np.median([f.near for f in found])
            sys.stdout.write(f"{loss:12}{modes:40}{near:12.1%}{sum(not f.finite for f in found):10}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
