"""A conditional GAN that undoes a physical degradation: how it is trained, by degrading any images.

First the generator learns from pixels alone (Charbonnier), then against a critic of [image, degraded] with the
spectrum beside it, so that it is right before it is sharp; how much both count follows from how sharp the answer has
to be (`sharpness`). Where the forward operator is known the answer is projected onto what was measured, in training
and in use. A second output learns the size of the error; scaled on held-out patients it bounds 95 % of errors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import ceil, cos, isfinite, pi
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.collection import durable
from medgan.errors import TrainingDiverged
from medgan.gan import checkpoint, ema, familiar, filled
from medgan.gan.arithmetic import fixed
from medgan.gan.degrade import task
from medgan.gan.jpeg import Jpeg
from medgan.gan.loss import LOSSES, squared_gradients
from medgan.gan.measurement import SIGNAL, Degradation, Image, Measurement
from medgan.gan.muon import Muon
from medgan.gan.planted import plant
from medgan.gan.recipes import fast_precision
from medgan.gan.repair import DESCRIPTION, WEIGHTS, Restorer, answer, bound_of, looked_at
from medgan.gan.restore_config import CODE_VERSION, LEAST_PX, RestoreConfig
from medgan.gan.restorer import PatchCritic, Unet
from medgan.gan.rings import ring_power
from medgan.gan.scans import Scans, fitting, halved, windows
from medgan.gan.step import Players

STATE = "state.safetensors"
COVERED, COVERED_IMAGES = 0.95, 0.9
"""Share of an image's errors in tissue that the uncertainty must bound, and in what share of held-out images."""
_CALIBRATION_IMAGES, _PLANTED = 48, 100
_DESCRIBED = 200
_FREE = 0.7
"""Share of the steps in which holes may be filled with less than the floor: where it clamps, nothing is learned."""


class Progress(NamedTuple):
    """One tick: steps done and due, mean pixel error (half window = 1) and adversarial loss since the last."""

    step: int
    total: int
    pixel: float
    adversarial: float


OnTick = Callable[[Progress], None]


def _measure(degradation: Degradation, images: Sequence[Image], rng: np.random.Generator) -> list[Measurement]:
    measured = [degradation.measure(one, rng) for one in images]
    if isinstance(degradation, Jpeg) and rng.random() < 0.5:  # noqa: PLR2004 - half of the files come without their steps
        measured = [Measurement(seen=one.seen, shape=one.shape) for one in measured]
    return measured


def start(config: RestoreConfig) -> Players:
    """Fresh networks whose weights follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2 * config.seed)
        networks = Unet(config.shape), PatchCritic(config.shape), Unet(config.shape)
    networks[2].load_state_dict(networks[0].state_dict())
    layout = torch.channels_last if fast_precision() == "bf16" else torch.contiguous_format
    for network in networks:
        network.to(memory_format=layout)  # type: ignore[call-overload]  # missing in its stub
    weights = networks[0].parameters()
    return Players(
        generator=networks[0],
        discriminator=networks[1],
        average=networks[2].eval().requires_grad_(requires_grad=False),
        optimiser_g=Muon(weights, lr=config.learning_rate)
        if config.optimiser == "muon"
        else torch.optim.Adam(weights, lr=config.learning_rate, betas=(0.9, 0.99), fused=True),
        optimiser_d=torch.optim.Adam(
            networks[1].parameters(), lr=config.learning_rate_critic, betas=(0.5, 0.99), fused=True
        ),
    )


def _play(config: RestoreConfig, players: Players, scans: Scans, rows: list[int]) -> Progress:
    """One step; returns its losses. Randomness comes from (seed, step)."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, players.step]))
    degradation = task(config.task).degradation
    truth_list = windows(scans, rows, config, rng)
    measured = _measure(degradation, truth_list, rng)
    if players.step < _FREE * config.total_steps:
        measured = [one if one.hole is None else replace(one, floor=-np.inf) for one in measured]
    truth = torch.from_numpy(np.stack(truth_list))[:, None]
    image, scale, naive = answer(players.generator, degradation, measured)
    error = torch.sqrt((image - truth).square() + 1e-6)  # Charbonnier
    weight = torch.ones_like(error)
    if measured[0].hole is not None:
        holes = np.stack([one.hole for one in measured if one.hole is not None])
        weight += (config.hole_weight - 1) * torch.from_numpy(holes)[:, None]
    sharpen = players.step >= config.steps
    pixel = (weight * error).mean()
    sure = (weight * (error.detach() * torch.exp(-scale) + scale)).mean()  # negative log likelihood of Laplace
    loss = config.pixel_weight * pixel + 0.1 * sure
    against = torch.zeros(())
    if sharpen:
        _move_critic(config, players, truth, image.detach(), naive)
        critic = players.discriminator.requires_grad_(requires_grad=False)
        real_N = critic(torch.cat([truth, naive], 1)).detach()
        against = LOSSES["r3"].generator(real_N, critic(torch.cat([image, naive], 1)))
        made_NR, truth_NR = ring_power(image), ring_power(truth)
        balance = critic.balance.weigh(made_NR, truth_NR, config.aim)  # type: ignore[operator,union-attr]
        spectrum = (made_NR - truth_NR).square().mean()  # the widest gaps first: they cost the least per dB
        loss = loss + balance * (spectrum + config.adversarial_weight * against)
    if not isfinite(float(loss.detach())):
        raise TrainingDiverged("a loss became non-finite: lower learning_rate or adversarial_weight")
    players.optimiser_g.param_groups[0]["lr"] = _rate(config, players.step)
    players.optimiser_g.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(players.generator.parameters(), 1.0)
    players.optimiser_g.step()
    players.step += 1
    seen = players.step * config.batch
    keep = ema.decay(config.batch, half_life_images=config.ema_half_life_images, seen=seen)
    ema.update(players.average, players.generator, keep)
    return Progress(players.step, config.total_steps, float(pixel.detach()), float(against.detach()))


def _rate(config: RestoreConfig, step: int) -> float:
    """Warm-up, then a cosine over both phases; the second begins at a quarter of the first rate at most."""
    warm = min(1.0, (step + 1) / 100)
    rate = config.learning_rate * warm * (0.02 + 0.98 * (1 + cos(pi * step / config.total_steps)) / 2)
    return min(rate, config.learning_rate / 4) if step >= config.steps else rate


def _move_critic(config: RestoreConfig, players: Players, truth: Tensor, made: Tensor, naive: Tensor) -> None:
    critic = players.discriminator.requires_grad_()
    penalised = players.step % config.penalty_every == 0
    real, fake = (x.detach().clone().requires_grad_(penalised) for x in (truth, made))
    real_N, fake_N = (critic(torch.cat([x, naive], 1)) for x in (real, fake))
    loss = LOSSES["r3"].discriminator(real_N, fake_N)
    if penalised:
        r1_N, r2_N = squared_gradients(torch.cat([real_N, fake_N]), real, fake)
        loss = loss + config.penalty_every * config.gamma / 2 * (r1_N.mean() + r2_N.mean())
    players.optimiser_d.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    players.optimiser_d.step()


def fit(
    scans: Scans, config: RestoreConfig, folder: Path, *, attrs: dict[str, Any], on_tick: OnTick | None = None
) -> Restorer:
    """Train into `folder`, going on from what stands there; the finished model.

    `attrs` goes to the description: `modality`, and `window` (lo, hi) where intensities have fixed units (CT).

    Raises:
        InvalidRequest: images that are too small, an unknown task.
        TrainingDiverged: a loss became non-finite.
        StoreUnavailable: the disk refuses; what stands goes on from its last tick.
    """
    rows, held = scans.split()
    with fixed(config.threads), durable.explained_disk():
        folder.mkdir(parents=True, exist_ok=True)
        players = start(config)
        checkpoint.load_state(folder / STATE, players, config_sha256=config.digest)
        recent: list[Progress] = []
        while players.step < config.total_steps:
            recent.append(_play(config, players, scans, rows))
            if players.step % config.tick_steps == 0 or players.step == config.total_steps:
                checkpoint.save_state(folder / STATE, players, seconds=0.0, config_sha256=config.digest)
                if on_tick:
                    pixel, against = (
                        float(np.mean([getattr(one, key) for one in recent])) for key in ("pixel", "adversarial")
                    )
                    on_tick(Progress(players.step, config.total_steps, pixel, against))
                recent = []
        checkpoint.save_network(folder / WEIGHTS, players.average)
        described = _describe(scans, rows, held, config, cast("Unet", players.average))
    description = {
        "code_version": CODE_VERSION,
        "config": asdict(config),
        "attrs": attrs,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        **described,
    }
    text = json.dumps(description, sort_keys=True, indent=1, allow_nan=False)
    durable.write_bytes(folder / DESCRIPTION, text.encode())
    return Restorer(folder)


def _describe(scans: Scans, rows: list[int], held: list[int], config: RestoreConfig, network: Unet) -> dict[str, Any]:
    """What held-out patients say: the factor of the uncertainty, what is familiar, and PSNR beside the naive answer."""
    degradation = task(config.task).degradation
    rng = np.random.Generator(np.random.Philox(key=[config.seed, 1 << 60]))
    looked = [
        held[i] for i in np.unique(np.linspace(0, len(held) - 1, min(_CALIBRATION_IMAGES, len(held))).astype(int))
    ]
    chosen = [fitting(scans.images[row], degradation.factor) for row in looked]
    needed, psnr, naive_psnr, holes = [], [], [], []
    for truth in chosen:
        measured = degradation.measure(truth, rng)
        image, scale, naive = _answered(network, degradation, measured)
        counts = truth > measured.floor + SIGNAL if measured.hole is None else measured.hole
        if counts.any():
            needed.append(float(np.quantile((np.abs(image - truth) / np.exp(scale))[counts], COVERED)))
        if measured.hole is not None:
            holes.append((image, truth, measured.hole))
        naive_psnr.append(_psnr(naive, truth))
        psnr.append(_psnr(image, truth))
    known = [_inputs(scans, part, degradation, rng) for part in (rows, held)]
    factor = conformal(needed, COVERED_IMAGES)

    def bounded(measured: Measurement) -> tuple[Image, Image]:
        image, scale, _ = _answered(network, degradation, measured)
        return image, bound_of(degradation, measured, image, scale, factor)

    planted = plant(degradation, chosen, bounded, cases=_PLANTED, patient=scans.patient[looked].tolist())
    return {
        "uncertainty_factor": factor,
        "familiar": familiar.learn(*known).as_json(),
        "planted": planted.as_json(),
        "filled": filled.by_depth(holes),
        "held_out": {
            "images": len(chosen),
            "patients": len(np.unique(scans.patient[held])),
            "psnr_db": float(np.mean(psnr)),
            "naive_psnr_db": float(np.mean(naive_psnr)),
        },
    }


def _answered(network: torch.nn.Module, degradation: Degradation, measured: Measurement) -> tuple[Image, Image, Image]:
    with torch.inference_mode():
        image, scale, naive = (part[0, 0].numpy() for part in answer(network, degradation, [measured]))
    return image, scale, naive


def conformal(scores: Sequence[float], share: float) -> float:
    """The bound that the next score keeps with probability `share` where scores are exchangeable (Vovk et al. 2005).

    The ceil((n + 1) share)-th smallest; the largest where there are too few for that promise.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    return float(ordered[min(len(ordered), ceil((len(ordered) + 1) * share)) - 1]) if len(ordered) else 1.0


def _inputs(
    scans: Scans, rows: list[int], degradation: Degradation, rng: np.random.Generator
) -> list[dict[str, NDArray[np.float64]]]:
    """Descriptions of images as a user may bring them: degraded, as they are, of half the resolution."""
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(_DESCRIBED, len(rows))).astype(int))]
    out = []
    for row in chosen:
        whole = fitting(scans.images[row], degradation.factor)
        shown = [_shown(degradation, whole, rng), whole]
        if degradation.factor == 1 and min(whole.shape) >= 2 * LEAST_PX:  # others degrade to less than full resolution
            shown.append(_shown(degradation, halved(whole), rng))
        out += [familiar.describe(looked_at(degradation, one)) for one in shown]
    return out


def _shown(degradation: Degradation, whole_HW: Image, rng: np.random.Generator) -> Image:
    """What a user brings of an image: it, degraded; a hole itself is not foreign."""
    measured = degradation.measure(whole_HW, rng)
    return measured.seen if measured.hole is None else degradation.naive(measured)


def _psnr(a: Image, b: Image) -> float:
    return float(10 * np.log10(4 / max(float(np.mean((a.astype(np.float64) - b) ** 2)), 1e-12)))
