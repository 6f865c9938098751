"""One round of the game: the discriminator's move(s), the generator's move, the average.

Randomness comes from counters (seed, step, retreats), so a resumed or distributed run draws what an unbroken one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medgan.gan import ema
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig
from medgan.gan.discriminator import build as build_discriminator
from medgan.gan.generator import build as build_generator
from medgan.gan.images import TrainingSet, indices
from medgan.gan.loss import LOSSES, squared_gradient, unit_gradient_penalty

Optimiser = torch.optim.Adam | torch.optim.RMSprop


class Score(NamedTuple):
    """What one round showed; losses without penalties, mean logits on real and fake."""

    loss_d: float
    loss_g: float
    d_real: float
    d_fake: float


@dataclass(slots=True, kw_only=True)
class Players:
    """Both networks, the generator's moving average, their optimisers, and the position in the run."""

    generator: nn.Module
    discriminator: nn.Module
    average: nn.Module
    optimiser_g: Optimiser
    optimiser_d: Optimiser
    step: int = 0
    retreats: int = 0

    @classmethod
    def start(cls, config: TrainConfig, classes: int) -> Players:
        """Fresh players whose weights follow from `config.seed`."""
        generator, average = build_generator(config, classes), build_generator(config, classes)
        discriminator = build_discriminator(config, classes)
        return cls(
            generator=generator,
            discriminator=discriminator,
            average=average.eval().requires_grad_(requires_grad=False),
            optimiser_g=_optimiser(config, generator),
            optimiser_d=_optimiser(config, discriminator),
        )


def _optimiser(config: TrainConfig, network: nn.Module) -> Optimiser:
    if config.optimiser == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), lr=config.learning_rate)
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=betas, fused=True)


def scheduled(start: float, end: float | None, progress: float) -> float:
    """Cosine from `start` to `end` over the run, or `start` where there is no end."""
    return start if end is None else end + (start - end) * (1 + cos(pi * min(progress, 1.0))) / 2


def play(config: TrainConfig, players: Players, images: TrainingSet) -> Score:
    """One round; advances `players` by one step. A non-finite loss is returned before any weight is touched by it."""
    progress = players.step / config.total_steps
    rate = scheduled(config.learning_rate, config.learning_rate_end, progress) * 0.5**players.retreats
    for optimiser in (players.optimiser_g, players.optimiser_d):
        optimiser.param_groups[0]["lr"] = rate
    gamma = scheduled(config.gamma, config.gamma_end, progress)
    rng = np.random.Generator(np.random.Philox(key=[config.seed, players.step + (players.retreats << 48)]))
    for turn in range(config.critic_steps):
        real, c = _real(config, players.step * config.critic_steps + turn, images, rng)
        fake = players.generator(_latents(config, rng), c)
        loss_d, judged_real, judged_fake = _critic_move(config, players, real, fake.detach(), c, gamma, rng)
        if not np.isfinite(loss_d):
            return Score(loss_d, float("nan"), judged_real, judged_fake)
    loss_g = _generator_move(config, players, real, fake, c, rng)
    players.step += 1
    keep = ema.decay(config.batch, half_life_images=1000 * config.ema_half_life_kimg, seen=players.step * config.batch)
    ema.update(players.average, players.generator, keep)
    return Score(loss_d, loss_g, judged_real, judged_fake)


def _real(config: TrainConfig, step: int, images: TrainingSet, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Real images and their conditions, some dropped to null."""
    real, c = images.batch(indices(step, config.batch, len(images.class_index), config.seed))
    null = rng.random(config.batch) < config.unconditional_drop
    return torch.from_numpy(real), torch.from_numpy(np.where(null, len(images.classes), c))


def _latents(config: TrainConfig, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal((config.batch, config.latent_dim), dtype=np.float32))


def _critic_move(
    config: TrainConfig, players: Players, real: Tensor, fake: Tensor, c: Tensor, gamma: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Move the discriminator; (loss without penalty, mean logit on real, on fake)."""
    critic = players.discriminator.requires_grad_()
    warp_real, warp_fake = Warp(config, len(real), rng), Warp(config, len(fake), rng)
    penalised = gamma > 0 and players.step % config.penalty_every == 0 and config.loss != "wgan-gp"
    real, fake = (x.detach().requires_grad_(penalised) for x in (real, fake))
    if config.norm_d == "batch":  # statistics of real and fake images stay apart
        real_N, fake_N = critic(warp_real(real), c), critic(warp_fake(fake), c)
    else:
        real_N, fake_N = critic(torch.cat([warp_real(real), warp_fake(fake)]), torch.cat([c, c])).chunk(2)
    loss = LOSSES[config.loss].discriminator(real_N, fake_N)
    total = loss
    if penalised:  # lazily: every k-th step, k times as strong (Karras et al. 2020, section 3.1)
        both = squared_gradient(real_N, real).mean() + squared_gradient(fake_N, fake).mean()
        total = loss + config.penalty_every * gamma / 2 * both
    elif config.loss == "wgan-gp":
        share = torch.from_numpy(rng.random((len(real), 1, 1, 1), dtype=np.float32))
        between = (share * real + (1 - share) * fake).requires_grad_()
        total = loss + unit_gradient_penalty(critic(between, c), between)
    value = float(total.detach())
    if np.isfinite(value):
        _descend(players.optimiser_d, total)
        if config.clip:
            with torch.no_grad():
                torch._foreach_clamp_min_(list(critic.parameters()), -config.clip)
                torch._foreach_clamp_max_(list(critic.parameters()), config.clip)
    loss_value = float(loss.detach()) if np.isfinite(value) else value
    return loss_value, float(real_N.detach().mean()), float(fake_N.detach().mean())


def _generator_move(
    config: TrainConfig, players: Players, real: Tensor, fake: Tensor, c: Tensor, rng: np.random.Generator
) -> float:
    """Move the generator against the discriminator as it now is; the loss."""
    critic = players.discriminator.requires_grad_(requires_grad=False)
    with torch.no_grad():
        relative = config.loss == "r3"  # the other games do not look at real images in the generator's turn
        real_N = critic(Warp(config, len(real), rng)(real), c) if relative else torch.zeros(len(real))
    fake_N = critic(Warp(config, len(fake), rng)(fake), c)
    loss = LOSSES[config.loss].generator(real_N, fake_N)
    value = float(loss.detach())
    if np.isfinite(value):
        _descend(players.optimiser_g, loss)
    return value


def _descend(optimiser: Optimiser, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    optimiser.step()
