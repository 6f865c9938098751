"""One round of the game: the discriminator's move(s), the generator's move, the average.

Randomness comes from counters (seed, step, retreats), so a resumed or distributed run draws what an unbroken one does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import cos, isfinite, nan, pi
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgan.gan import ema, spectrum
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig
from medgan.gan.discriminator import build as build_discriminator
from medgan.gan.draws import Draws
from medgan.gan.generator import build as build_generator
from medgan.gan.images import TrainingSet
from medgan.gan.layers import channels_last
from medgan.gan.loss import LOSSES, squared_gradients, unit_gradient_penalty
from medgan.gan.muon import Muon
from medgan.gan.parallel import ALONE, World
from medgan.gan.sketch import Sketch

Optimiser = torch.optim.Adam | torch.optim.RMSprop | Muon


class Score(NamedTuple):
    """What one round showed; losses without penalties, mean logits on real and fake."""

    loss_d: float
    loss_g: float
    d_real: float
    d_fake: float


@dataclass(slots=True, kw_only=True)
class Ladder:
    """Where a private run stands between two moves of its generator (see `private`)."""

    rung: int = 0
    waited: int = 0
    accuracy: float = 1.0
    moves: int = 0


@dataclass(slots=True, kw_only=True)
class Best:
    """The least distance a judge has told so far, and after how many rounds."""

    distance: float = float("inf")
    step: int = 0


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
    ladder: Ladder = field(default_factory=Ladder)
    best: Best = field(default_factory=Best)

    @classmethod
    def start(cls, config: TrainConfig, classes: int, features: int = 0) -> Players:
        """Fresh players whose weights follow from `config.seed`; `features` as `conditions.width` counts them."""
        layout = channels_last(config.dims) if config.precision == "bf16" else torch.contiguous_format
        generator, average = (build_generator(config, classes, features) for _ in range(2))
        discriminator = build_discriminator(config, classes, features)
        for network in (generator, average, discriminator):
            network.to(device=config.device, memory_format=layout)  # type: ignore[call-overload]  # missing in its stub
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


def play(config: TrainConfig, players: Players, images: TrainingSet, world: World = ALONE) -> Score:
    """One round; advances `players` by one step. A non-finite loss is returned before any weight is touched by it."""
    progress = players.step / config.total_steps
    rate = scheduled(config.learning_rate, config.learning_rate_end, progress) * 0.5**players.retreats
    for optimiser in (players.optimiser_g, players.optimiser_d):
        optimiser.param_groups[0]["lr"] = rate
    gamma = scheduled(config.gamma, config.gamma_end, progress)
    draws = Draws(config, players.step, players.retreats, world)
    for turn in range(config.critic_steps):
        real, c = draws.real(images, turn)
        z = draws.latents()
        fake = _generate(config, players, z, c)
        loss_d, judged_real, judged_fake = _critic_move(config, players, Pair(real, fake.detach(), c), gamma, draws)
        if not isfinite(loss_d):
            return Score(loss_d, nan, judged_real, judged_fake)
    pull_R = None
    if config.spectrum_weight:
        pull_R = config.spectrum_weight * spectrum.pull(fake.detach(), wanted_power(config, images, c, world), world)
    loss_g = _generator_move(config, players, Pair(real, fake, c), z, draws, pull_R)
    players.step += 1
    keep = ema.decay(config.batch, half_life_images=1000 * config.ema_half_life_kimg, seen=players.step * config.batch)
    ema.update(players.average, players.generator, keep)
    return Score(loss_d, loss_g, judged_real, judged_fake)


def wanted_power(config: TrainConfig, images: TrainingSet, c: Tensor, world: World) -> NDArray[np.float64]:
    """Ring power (R,) that a batch under conditions `c` should have: of all images, or of its own mix of classes."""
    if config.spectrum_target == "all":
        return images.ring_power
    class_N = (c if c.ndim == 1 else c[:, 0].long()).cpu().numpy()
    power = torch.from_numpy(images.class_ring_power[class_N].mean(0))
    world.average_([power])
    wanted: NDArray[np.float64] = power.numpy()
    return wanted


class Pair(NamedTuple):
    """Real and generated images (n, 1, H, W) under the same conditions (n,) or (n, 1 + F)."""

    real: Tensor
    fake: Tensor
    c: Tensor

    def parts(self, count: int) -> Iterator[Pair]:
        """The rows in `count` equal parts."""
        return map(Pair, *(tensor.chunk(count) for tensor in self))


def _parts(warp: Warp, count: int) -> Iterator[Warp]:
    """A batch's warp as warps of `count` equal parts."""
    for index in range(count):
        yield warp.map(lambda tensor: tensor.chunk(count)[index])  # noqa: B023 - called at once


def _generate(config: TrainConfig, players: Players, z: Tensor, c: Tensor) -> Tensor:
    """Images of a batch, float32. In parts they carry no graph: the generator's move makes each part again."""
    if config.accumulate == 1:
        with _autocast(config):
            return cast("Tensor", players.generator(z, c).float())
    with _autocast(config), torch.no_grad():
        made = [players.generator(*part).float() for part in zip(*_chunks(config, z, c), strict=True)]
    return torch.cat(made)


def _chunks(config: TrainConfig, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return (tensor.chunk(config.accumulate) for tensor in tensors)


def _autocast(config: TrainConfig) -> torch.autocast:
    return torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16")


def _critic_move(
    config: TrainConfig, players: Players, pair: Pair, gamma: float, draws: Draws
) -> tuple[float, float, float]:
    """Move the discriminator; (loss without penalty, mean logit on real, on fake)."""
    critic = players.discriminator.requires_grad_()
    count = config.accumulate
    warps = zip(*(_parts(draws.warp(), count) for _ in range(2)), strict=True)
    shares = draws.shares().chunk(count) if config.loss == "wgan-gp" else [None] * count
    penalised = gamma > 0 and players.step % config.penalty_every == 0 and config.loss != "wgan-gp"
    players.optimiser_d.zero_grad(set_to_none=True)
    seen = torch.zeros(4, dtype=torch.float64)
    for part, both, share in zip(pair.parts(count), warps, shares, strict=True):
        total, *told = _judge(config, critic, part, both, share, gamma if penalised else 0.0)
        seen += torch.tensor([float(x.detach()) for x in (total, *told)], dtype=torch.float64) / count
        if isfinite(float(seen[0])):
            (total / count).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    whole, value, judged_real, judged_fake = (draws.world.mean(float(x)) for x in seen)
    if not isfinite(whole):
        return whole, judged_real, judged_fake
    _descend(players.optimiser_d, draws.world)
    if config.clip:
        with torch.no_grad():
            for weight in critic.parameters():
                weight.clamp_(-config.clip, config.clip)
    return value, judged_real, judged_fake


def _judge(
    config: TrainConfig, critic: nn.Module, pair: Pair, warps: tuple[Warp, Warp], share: Tensor | None, gamma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The critic's loss with its penalty and without, mean logit on real and on fake; `gamma` 0 for no R1 + R2."""
    warp_real, warp_fake = warps
    penalised = gamma > 0
    real, fake = (x.detach().requires_grad_(penalised) for x in (pair.real, pair.fake))
    with contextlib.nullcontext() if penalised else _autocast(config):  # the penalty is taken in float32
        if config.norm_d == "batch":  # statistics of real and fake images stay apart
            real_N, fake_N = critic(warp_real(real), pair.c).float(), critic(warp_fake(fake), pair.c).float()
        else:
            both = torch.cat([warp_real(real), warp_fake(fake)])
            real_N, fake_N = critic(both, torch.cat([pair.c, pair.c])).float().chunk(2)
    loss = LOSSES[config.loss].discriminator(real_N, fake_N)
    total = loss
    if penalised:  # lazily: every k-th step, k times as strong (Karras et al. 2020, section 3.1)
        r1_N, r2_N = squared_gradients(torch.cat([real_N, fake_N]), real, fake)
        total = loss + config.penalty_every * gamma / 2 * (r1_N.mean() + r2_N.mean())
    elif share is not None:
        between = (share * real + (1 - share) * fake).requires_grad_()
        total = loss + unit_gradient_penalty(critic(between, pair.c), between)
    return total, loss, real_N.mean(), fake_N.mean()


def _generator_move(
    config: TrainConfig, players: Players, pair: Pair, z: Tensor, draws: Draws, pull_R: Tensor | None
) -> float:
    """Move the generator against the discriminator as it now is; the loss without the spectrum's pull."""
    critic = players.discriminator.requires_grad_(requires_grad=False)
    count = config.accumulate
    warps_real = _parts(draws.warp(), count) if config.loss == "r3" else [None] * count
    warps_fake = _parts(draws.warp(), count)
    players.optimiser_g.zero_grad(set_to_none=True)
    seen = 0.0
    for part, z_part, warp_real, warp_fake in zip(
        pair.parts(count), z.chunk(count), warps_real, warps_fake, strict=True
    ):
        with _autocast(config):
            fake = part.fake if count == 1 else players.generator(z_part, part.c).float()
            real_N = torch.zeros(len(part.real), device=config.device)
            if warp_real is not None:  # the other games do not look at real images in the generator's turn
                with torch.no_grad():
                    real_N = critic(warp_real(part.real), part.c).float()
            fake_N = critic(warp_fake(fake), part.c).float()
        loss = LOSSES[config.loss].generator(real_N, fake_N)
        seen += float(loss.detach()) / count
        total = loss if pull_R is None else loss + (pull_R * spectrum.ring_power(fake)).sum()
        if config.sketch_weight:
            class_N = part.c if part.c.ndim == 1 else part.c[:, 0].long()
            sketch = cast("Sketch", players.generator.sketch)
            total = total + config.sketch_weight * sketch.strayed(fake, z_part, class_N)
        if isfinite(seen):
            (total / count).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    value = draws.world.mean(seen)
    if isfinite(value):
        _descend(players.optimiser_g, draws.world)
    return value


def _descend(optimiser: Optimiser, world: World) -> None:
    """One step along the gradients that lie there, averaged over processes."""
    parameters = optimiser.param_groups[0]["params"]
    world.average_([parameter.grad for parameter in parameters if parameter.grad is not None])
    optimiser.step()
