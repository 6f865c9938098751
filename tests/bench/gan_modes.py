"""The 25-Gaussian grid: how many modes each game finds in 20 CPU-seconds: `python -m tests.bench.gan_modes`.

The classic test of mode collapse (Srivastava et al. 2017; Lin et al. 2018): 25 Gaussians of standard deviation 0.05
on a 5 x 5 grid of spacing 2. A mode is found when at least a fifth of its fair share of 10,000 samples lies within
three standard deviations. Losses, penalties and average are medgan's own; the networks are small enough that the time
goes into rounds: a generator that starts as three times its latent (as residual blocks start as the identity), so that
it covers the grid before it learns it, and a critic that reads random Fourier features (Tancik et al. 2020), because
three plain layers cannot tell modes from gaps within a few thousand rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from medgan.gan import ema
from medgan.gan.arithmetic import fixed
from medgan.gan.loss import LOSSES, squared_gradients, unit_gradient_penalty
from tests.bench.__main__ import machine

SPACING, SIGMA, REACH = 2.0, 0.05, 3.0
BATCH, WIDTH = 256, 64
RATE, RATE_END = 4e-3, 0.05
GAMMA, GAMMA_END = 0.5, 0.03
"""From smooth to sharp: at 0.02 throughout the critic wins before the generator has spread, and 4 to 9 modes stay; at
0.02 in units of a quarter (as this benchmark once had it) the critic never tells modes from gaps at all."""
PENALTY_EVERY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    modes: int
    near: float
    cpu_seconds: float
    rounds: int
    finite: bool


def grid(rng: np.random.Generator, count: int) -> Tensor:
    centres = SPACING * (rng.integers(0, 5, (count, 2)) - 2)
    return torch.from_numpy((centres + SIGMA * rng.standard_normal((count, 2))).astype(np.float32))


class Points(nn.Module):
    """Latents (N, 2) to points (N, 2): three times the latent and a correction that starts at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.correct = _dense(2, WIDTH, WIDTH, WIDTH, 2)
        nn.init.zeros_(self.correct[-1].weight)
        nn.init.zeros_(self.correct[-1].bias)

    def forward(self, z_N2: Tensor) -> Tensor:
        return REACH * z_N2 + self.correct(z_N2)


class Critic(nn.Module):
    """Points (N, 2) to logits (N,), by 32 random frequencies of standard deviation 1 a unit."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 32))
        self.judge = _dense(64, WIDTH, WIDTH, 1)

    def forward(self, x_N2: Tensor) -> Tensor:
        phase = x_N2 @ self.frequencies
        return self.judge(torch.cat([phase.sin(), phase.cos()], 1)).squeeze(1)


def _dense(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(sizes):
        layers += [nn.Linear(c_in, c_out), nn.LeakyReLU(0.2)]
        nn.init.kaiming_normal_(layers[-2].weight, 0.2)
    return nn.Sequential(*layers[:-1])


def play(loss: str, seed: int, seconds: float) -> Found:
    """Train one pair for `seconds` of CPU time of one thread and count the modes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    generator, critic, average = Points(), Critic(), Points()
    average.load_state_dict(generator.state_dict())
    g, d = (torch.optim.Adam(n.parameters(), RATE, betas=(0.0, 0.99), fused=True) for n in (generator, critic))
    begun, rounds, finite = time.process_time(), 0, True
    while finite and (spent := time.process_time() - begun) < seconds:
        for optimiser in (g, d):
            optimiser.param_groups[0]["lr"] = RATE * (1 - (1 - RATE_END) * spent / seconds)
        gamma = GAMMA * (GAMMA_END / GAMMA) ** (spent / seconds) if rounds % PENALTY_EVERY == 0 else 0.0
        real = grid(rng, BATCH)
        fake = generator(torch.from_numpy(rng.standard_normal((BATCH, 2), dtype=np.float32)))
        total = criticise(loss, critic.requires_grad_(), real, fake.detach(), gamma, rng)
        d.zero_grad()
        total.backward()
        d.step()
        if loss == "wgan-clip":
            with torch.no_grad():
                for weight in critic.parameters():
                    weight.clamp_(-0.1, 0.1)
        critic.requires_grad_(requires_grad=False)
        game = LOSSES[loss].generator(critic(real), critic(fake))
        g.zero_grad()
        game.backward()
        g.step()
        rounds += 1
        ema.update(average, generator, ema.decay(BATCH, half_life_images=20_000, seen=rounds * BATCH))
        finite = bool(torch.isfinite(total) and torch.isfinite(game))
    found = count_modes(average, rng)
    return Found(modes=found[0], near=found[1], cpu_seconds=spent, rounds=rounds, finite=finite)


def criticise(
    loss: str, critic: nn.Module, real: Tensor, fake: Tensor, gamma: float, rng: np.random.Generator
) -> Tensor:
    """The critic's loss with the penalty that belongs to it: R1 + R2 for r3, Gulrajani's for wgan-gp, none else."""
    penalised = loss == "r3" and gamma > 0
    real, fake = (x.detach().requires_grad_(penalised) for x in (real, fake))
    real_N, fake_N = critic(torch.cat([real, fake])).chunk(2)
    total = LOSSES[loss].discriminator(real_N, fake_N)
    if penalised:
        r1_N, r2_N = squared_gradients(torch.cat([real_N, fake_N]), real, fake)
        total = total + PENALTY_EVERY * gamma / 2 * (r1_N.mean() + r2_N.mean())
    elif loss == "wgan-gp":
        share = torch.from_numpy(rng.random((BATCH, 1), dtype=np.float32))
        between = (share * real + (1 - share) * fake).requires_grad_()
        total = total + unit_gradient_penalty(critic(between), between)
    return total


def count_modes(generator: nn.Module, rng: np.random.Generator) -> tuple[int, float]:
    """Modes found by 10,000 samples, and the share of samples near one."""
    with torch.inference_mode():
        points = generator(torch.from_numpy(rng.standard_normal((10_000, 2), dtype=np.float32))).numpy()
    cell = np.rint(points / SPACING)
    near = (np.linalg.norm(points - cell * SPACING, axis=1) < 3 * SIGMA) & (np.abs(cell) <= 2).all(1)
    share = np.bincount(((cell[near] + 2) @ [5, 1]).astype(int), minlength=25)
    return int((share >= 80).sum()), float(near.mean())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gan_modes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--losses", nargs="*", default=["r3", "gan-ns", "gan-minimax", "hinge", "wgan-gp", "wgan-clip"])
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{machine()}; one thread, {given.seconds:g} CPU-seconds, {given.seeds} seeds\n")
    sys.stdout.write(f"{'loss':12}{'modes of 25, each seed':40}{'near a mode':>12}{'diverged':>10}{'rounds':>8}\n")
    with fixed(1):
        for loss in given.losses:
            found = [play(loss, seed, given.seconds) for seed in range(given.first, given.first + given.seeds)]
            modes = " ".join(str(f.modes) for f in found)
            rounds = np.median([f.rounds for f in found])
            near = np.median([f.near for f in found])
            sys.stdout.write(f"{loss:12}{modes:40}{near:12.1%}{sum(not f.finite for f in found):10}{rounds:8.0f}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
