"""A training under differential privacy: the discriminator's private step, and a generator that waits its turn.

A *step* of such a run is a step of the discriminator; their number is fixed before the first one, because each costs
budget. The generator moves after every k-th of them. k climbs 1, 2, 5, 10, ... when the discriminator no longer tells
generated images (Bie, Kamath and Zhang 2023): noise slows the discriminator, so it must be given more turns. That
decision, the curve and the pictures look at generated images only, so they cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.errors import InvalidRequest
from medgan.gan import accountant, dp, ema
from medgan.gan.config import DP, TrainConfig
from medgan.gan.images import TrainingSet
from medgan.gan.loss import LOSSES
from medgan.gan.step import Players, Score, scheduled

KEY = ".noise-key"
LADDER = (1, 2, 5, 10, 20, 50, 100, 200)
"""Discriminator steps a generator step (Bie, Kamath and Zhang 2023, section 4)."""
_CLIMB_BELOW, _MEMORY = 0.6, 0.95
_MICRO_BATCH = 64
_JUDGED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What the budget buys: `count` steps at noise multiplier `sigma`, each drawing a patient with chance `rate`."""

    sigma: float
    rate: float
    count: int

    @property
    def steps(self) -> accountant.Steps:
        """For the accountant."""
        return accountant.Steps(self.sigma, self.rate, self.count)


def solve(config: TrainConfig, patients: int) -> Noise:
    """The noise that keeps this run within `config.privacy`; `InvalidRequest` when no run can."""
    target = _target(config)
    rate = config.batch / patients
    if rate > 1:
        raise InvalidRequest(f"a step draws {config.batch} patients on average and there are {patients}")
    sigma = accountant.solve_sigma(epsilon=target.epsilon, delta=target.delta, rate=rate, steps=config.total_steps)
    return Noise(sigma=sigma, rate=rate, count=config.total_steps)


class Game:
    """The rounds of one private run. Weights start from the seed; all else that is random follows from the secret."""

    def __init__(
        self, config: TrainConfig, images: TrainingSet, patients: NDArray[np.object_], folder: Path, *, name: str
    ) -> None:
        """Play `images` of `patients` (N,); the secret of the run called `name` lies in `folder` until it is over."""
        self.config, self.images = config, images
        self.patients = dp.Patients(patients)
        self.noise = solve(config, len(self.patients))
        self.loss = dp.sample_loss(config.loss, config.gamma)
        self.secret = dp.Secret.at(folder / f"{name[:16]}{KEY}")

    def play(self, players: Players) -> Score:
        """One step; advances `players`. `d_real` is 0: a curve that told of real images would cost budget."""
        config, step = self.config, players.step
        rate = scheduled(config.learning_rate, config.learning_rate_end, step / config.total_steps)
        for optimiser in (players.optimiser_g, players.optimiser_d):
            optimiser.param_groups[0]["lr"] = rate
        # of the secret, not of the seed: who is drawn decides whose fake gets which latent, and latents that somebody
        # knows would let one patient's leaving change the gradients of the others
        rng = self.secret.generator("latents", step)
        self._discriminator_step(players, rng)
        judged_N = self._judge(players, rng)
        ladder = players.ladder
        ladder.waited += 1
        accuracy = float((judged_N < 0).float().mean())
        ladder.accuracy = _MEMORY * ladder.accuracy + (1 - _MEMORY) * accuracy
        if ladder.waited >= LADDER[ladder.rung]:
            self._generator_step(players, rng)
            ladder.waited = 0
            if ladder.accuracy < _CLIMB_BELOW and ladder.rung + 1 < len(LADDER):
                ladder.rung, ladder.accuracy = ladder.rung + 1, 1.0
        players.step += 1
        zeros, game = torch.zeros_like(judged_N), LOSSES[config.loss]
        return Score(
            loss_d=float(game.discriminator(zeros, judged_N)),
            loss_g=float(game.generator(zeros, judged_N)),
            d_real=0.0,
            d_fake=float(judged_N.mean()),
        )

    def _discriminator_step(self, players: Players, rng: np.random.Generator) -> None:
        """Add up clipped gradients of the patients drawn, a micro-batch at a time; noise once; step."""
        target, noise, critic = _target(self.config), self.noise, players.discriminator
        critic.requires_grad_()
        rows = self.patients.draw(self.secret, players.step, noise.rate)
        total = {name: torch.zeros_like(value) for name, value in critic.named_parameters()}
        for start in range(0, len(rows), _MICRO_BATCH):
            part = rows[start : start + _MICRO_BATCH]
            real_NHW, classes = self.images.batch(part)
            c = torch.from_numpy(classes)
            gradients = dp.per_sample_gradients(
                critic, self.loss, torch.from_numpy(real_NHW), self._fakes(players, c, rng), c
            )
            for name, value in dp.clipped_sum(gradients, range(len(part)), target.clip).items():
                total[name] += value
        mean = dp.privatised(
            total,
            clip=target.clip,
            sigma=noise.sigma,
            expected_patients=self.config.batch,
            secret=self.secret,
            step=players.step,
        )
        for name, value in critic.named_parameters():
            value.grad = mean[name]
        players.optimiser_d.step()

    def _fakes(self, players: Players, c: Tensor, rng: np.random.Generator) -> Tensor:
        """One image a condition. In evaluation mode: batch statistics would tie one patient's fake to another's."""
        z = torch.from_numpy(rng.standard_normal((len(c), self.config.latent_dim), dtype=np.float32))
        with torch.no_grad():
            made: Tensor = players.generator.eval()(z, c)
        return made

    def _judge(self, players: Players, rng: np.random.Generator) -> Tensor:
        """Logits (n,) of fresh generated images."""
        c = self._classes(rng, _JUDGED)
        with torch.no_grad():
            logits: Tensor = players.discriminator(self._fakes(players, c, rng), c)
        return logits

    def _generator_step(self, players: Players, rng: np.random.Generator) -> None:
        config, critic = self.config, players.discriminator.requires_grad_(requires_grad=False)
        c = self._classes(rng, config.batch)
        z = torch.from_numpy(rng.standard_normal((config.batch, config.latent_dim), dtype=np.float32))
        logits_N = critic(players.generator.train()(z, c), c)
        players.optimiser_g.zero_grad(set_to_none=True)
        LOSSES[config.loss].generator(torch.zeros_like(logits_N), logits_N).backward()  # type: ignore[no-untyped-call]
        players.optimiser_g.step()
        players.ladder.moves += 1
        seen = players.ladder.moves * config.batch
        keep = ema.decay(config.batch, half_life_images=1000 * config.ema_half_life_kimg, seen=seen)
        ema.update(players.average, players.generator, keep)

    def _classes(self, rng: np.random.Generator, count: int) -> Tensor:
        """Conditions, all classes alike: how often each occurs in the real images is theirs to know."""
        return torch.from_numpy(rng.integers(0, len(self.images.classes), count))


def forget(folder: Path) -> None:
    """Delete the secrets of a finished run: without it nobody can take the noise off the discriminator again."""
    for path in folder.glob(f"*{KEY}"):
        path.unlink()


def _target(config: TrainConfig) -> DP:
    if config.privacy is None:
        raise InvalidRequest("this configuration asks for no differential privacy")
    return config.privacy
