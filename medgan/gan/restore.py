"""A conditional GAN that undoes a physical degradation: training by degrading any images, and honest application.

First the generator learns from pixels alone (Charbonnier), then against a critic of [image, degraded] with pixel and
spectrum terms beside it, so that it is right before it is sharp. Where the forward operator is known the answer is
projected onto what was measured, in training and in use. A second output learns the size of the error; scaled on
held-out patients it bounds 95 % of errors. A folder holds one model: weights, and `restorer.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.errors import IntegrityError, InvalidRequest, TrainingDiverged
from medgan.gan import checkpoint, ema, familiar
from medgan.gan.arithmetic import fixed
from medgan.gan.degrade import TASKS, Degradation, Image, Jpeg, Measurement, noise_level, task
from medgan.gan.familiar import Familiar
from medgan.gan.loss import LOSSES, squared_gradients
from medgan.gan.recipes import fast_precision
from medgan.gan.restorer import PatchCritic, Shape, Unet, log_scale
from medgan.gan.step import Players

CODE_VERSION = 1
WEIGHTS, DESCRIPTION, STATE = "restorer.safetensors", "restorer.json", "state.safetensors"
COVERED = 0.95
"""Share of held-out errors that the uncertainty must bound."""
_LEAST_PX = 32
_CALIBRATION_IMAGES = 48
_DESCRIBED = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig:
    """One training run. `steps` of pixels alone, then `adversarial_steps` against the critic."""

    task: str
    steps: int = 3000
    adversarial_steps: int = 1000
    seed: int = 0
    window_px: int = 128
    batch: int = 4
    learning_rate: float = 1e-3
    learning_rate_critic: float = 4e-4
    pixel_weight: float = 10.0
    hole_weight: float = 2.0  # errors inside a hole count so many times as much
    spectrum_weight: float = 0.1
    adversarial_weight: float = 0.05
    gamma: float = 0.1
    penalty_every: int = 8
    ema_half_life_images: float = 1000.0
    shape: Shape = field(default_factory=Shape)
    threads: int = 1
    tick_steps: int = 250

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        factor = task(self.task).degradation.factor
        if self.window_px < _LEAST_PX or self.window_px % (8 * factor // 2):
            raise InvalidRequest(f"window_px must be at least {_LEAST_PX} and a multiple of {8 * factor // 2}")
        if min(self.steps, self.batch, self.tick_steps) < 1 or self.adversarial_steps < 0:
            raise InvalidRequest("steps, batch and tick_steps start at 1")

    @property
    def total_steps(self) -> int:
        """Both phases."""
        return self.steps + self.adversarial_steps

    @property
    def digest(self) -> str:
        """Hex SHA-256 over every field and `CODE_VERSION`."""
        text = json.dumps({"code_version": CODE_VERSION, **asdict(self)}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RestoreConfig:
        """Inverse of `asdict`."""
        shape = value["shape"]
        made = Shape(widths=tuple(shape["widths"]), blocks=shape["blocks"], critic_widths=tuple(shape["critic_widths"]))
        return cls(**{**value, "shape": made})


class Progress(NamedTuple):
    """One tick: steps done and due, mean pixel error (half window = 1) and adversarial loss since the last."""

    step: int
    total: int
    pixel: float
    adversarial: float


OnTick = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scans:
    """Images to learn from: (H, W) float32 in [-1, 1] of any size, and whose each is (an index, no identifier)."""

    images: Sequence[Image]
    patient: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse images too small to learn from."""
        if len(self.images) != len(self.patient) or not len(self.images):
            raise InvalidRequest("a restorer learns from at least one image, and each belongs to a patient")
        if min(min(one.shape) for one in self.images) < _LEAST_PX:
            raise InvalidRequest(f"images to learn restoration from are at least {_LEAST_PX} px wide and high")

    def split(self) -> tuple[list[int], list[int]]:
        """Indices to train on and to calibrate with: the last tenth of the patients, or of one patient's images."""
        patients = np.unique(self.patient)
        if len(patients) > 1:
            held = np.isin(self.patient, patients[-max(1, len(patients) // 10) :])
        else:
            held = np.arange(len(self.images)) >= max(1, round(0.9 * len(self.images)))
            held = held if held.any() else np.ones(len(self.images), bool)
        train = np.flatnonzero(~held) if (~held).any() else np.flatnonzero(held)
        return train.tolist(), np.flatnonzero(held).tolist()


def network_input(degradation: Degradation, measured: Sequence[Measurement]) -> Tensor:
    """(N, 3, H, W): the naive answer, where the holes are, and how strong the degradation seems to be."""
    parts = []
    for one in measured:
        naive = degradation.naive(one)
        hole = np.zeros_like(naive) if one.hole is None else one.hole.astype(np.float32)
        if degradation.name in {"denoise", "low-dose"}:
            level = 4 * noise_level(one.seen)
        else:
            level = 0.0 if one.steps_88 is None else 4 * one.level
        parts.append(np.stack([naive, hole, np.full_like(naive, level)]))
    return torch.from_numpy(np.stack(parts))


def ring_power(x_NCHW: Tensor) -> Tensor:
    """Log power (N, R) by spatial frequency, Hann window against the frame's edges; natural logarithm."""
    height, width = x_NCHW.shape[-2:]
    window, ring, count, rings = _rings(height, width)
    centred = (x_NCHW - x_NCHW.mean((2, 3), keepdim=True)) * window
    power = torch.fft.rfft2(centred).abs().square()[:, 0].flatten(1)
    sums = power @ ring
    return torch.log(sums / count + 1e-4 * height * width / 1e3)[:, 1:rings]


_RING_CACHE: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, int]] = {}


def _rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, int]:
    if (height, width) not in _RING_CACHE:
        radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
        rings = 24
        index = np.minimum((radius / 0.5 * rings).astype(int), rings).ravel()  # corners beyond Nyquist are one ring
        one_hot = np.zeros((index.size, rings + 1), np.float32)
        one_hot[np.arange(index.size), index] = 1
        window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
        counts = np.maximum(one_hot.sum(0), 1)
        _RING_CACHE[height, width] = (
            torch.from_numpy(window), torch.from_numpy(one_hot), torch.from_numpy(counts), rings,
        )  # fmt: skip
    return _RING_CACHE[height, width]


def _windows(scans: Scans, rows: list[int], config: RestoreConfig, rng: np.random.Generator) -> list[Image]:
    """A batch of windows of one size: random place, random flips and quarter turns, gain within 10 %."""
    size = config.window_px
    chosen = [scans.images[rows[int(rng.integers(len(rows)))]] for _ in range(config.batch)]
    step = 8 * max(1, task(config.task).degradation.factor // 2)
    side = min(size, *(min(one.shape) for one in chosen)) // step * step
    cut = []
    for one in chosen:
        top, left = (int(rng.integers(length - side + 1)) for length in one.shape)
        window = np.rot90(one[top : top + side, left : left + side], int(rng.integers(4)))
        window = window[::-1] if rng.random() < 0.5 else window  # noqa: PLR2004 - a coin
        cut.append(np.ascontiguousarray((window + 1) * rng.uniform(0.9, 1.1) - 1, np.float32))
    return cut


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
    return Players(
        generator=networks[0],
        discriminator=networks[1],
        average=networks[2].eval().requires_grad_(requires_grad=False),
        optimiser_g=torch.optim.Adam(networks[0].parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True),
        optimiser_d=torch.optim.Adam(
            networks[1].parameters(), lr=config.learning_rate_critic, betas=(0.5, 0.99), fused=True
        ),
    )


def answer(network: torch.nn.Module, degradation: Degradation, measured: list[Measurement]) -> tuple[Tensor, ...]:
    """(image, log error scale, naive), each (N, 1, H, W) float32; the image agrees with what was measured."""
    given = network_input(degradation, measured)
    layout = torch.channels_last if fast_precision() == "bf16" else torch.contiguous_format
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_precision() == "bf16"):
        out = network(given.contiguous(memory_format=layout))
    out = out.float()
    image = degradation.project(given[:, :1] + out[:, :1], measured)
    return image, log_scale(out[:, 1:]), given[:, :1]


def _play(config: RestoreConfig, players: Players, scans: Scans, rows: list[int]) -> Progress:
    """One step; returns its losses. Randomness comes from (seed, step)."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, players.step]))
    degradation = task(config.task).degradation
    truth_list = _windows(scans, rows, config, rng)
    measured = _measure(degradation, truth_list, rng)
    truth = torch.from_numpy(np.stack(truth_list))[:, None]
    image, scale, naive = answer(players.generator, degradation, measured)
    error = torch.sqrt((image - truth).square() + 1e-6)  # Charbonnier
    weight = torch.ones_like(error)
    if measured[0].hole is not None:
        holes = np.stack([one.hole for one in measured if one.hole is not None])
        weight += (config.hole_weight - 1) * torch.from_numpy(holes)[:, None]
    pixel = (weight * error).mean()
    sure = (weight * (error.detach() * torch.exp(-scale) + scale)).mean()  # negative log likelihood of Laplace
    loss = config.pixel_weight * pixel + 0.1 * sure
    against = torch.zeros(())
    if players.step >= config.steps:
        _move_critic(config, players, truth, image.detach(), naive)
        critic = players.discriminator.requires_grad_(requires_grad=False)
        real_N = critic(torch.cat([truth, naive], 1)).detach()
        against = LOSSES["r3"].generator(real_N, critic(torch.cat([image, naive], 1)))
        spectrum = (ring_power(image) - ring_power(truth)).abs().mean()
        loss = loss + config.adversarial_weight * against + config.spectrum_weight * spectrum
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
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, held = scans.split()
    with fixed(config.threads):
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
        described = _describe(scans, rows, held, config, players.average)
    description = {
        "config": asdict(config),
        "attrs": attrs,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        **described,
    }
    text = json.dumps(description, sort_keys=True, indent=1, allow_nan=False)
    checkpoint.write_atomically(folder / DESCRIPTION, text.encode())
    return Restorer(folder)


def _describe(
    scans: Scans, rows: list[int], held: list[int], config: RestoreConfig, network: torch.nn.Module
) -> dict[str, Any]:
    """What held-out patients say: the factor of the uncertainty, what is familiar, and PSNR beside the naive answer."""
    degradation = task(config.task).degradation
    rng = np.random.Generator(np.random.Philox(key=[config.seed, 1 << 60]))
    ratios, gains, naive_psnr = [], [], []
    chosen = [
        held[i] for i in np.unique(np.linspace(0, len(held) - 1, min(_CALIBRATION_IMAGES, len(held))).astype(int))
    ]
    with torch.inference_mode():
        for row in chosen:
            truth = fitting(scans.images[row], degradation.factor)
            measured = degradation.measure(truth, rng)
            image, scale, naive = (part[0, 0].numpy() for part in answer(network, degradation, [measured]))
            ratio = np.abs(image - truth) / np.exp(scale)
            ratios.append((ratio if measured.hole is None else ratio[measured.hole]).ravel())
            naive_psnr.append(_psnr(naive, truth))
            gains.append(_psnr(image, truth) - naive_psnr[-1])
    factor = float(np.quantile(np.concatenate(ratios), COVERED))
    known = [_inputs(scans, part, degradation, rng) for part in (rows, held)]
    return {
        "uncertainty_factor": factor,
        "familiar": familiar.learn(*known).as_json(),
        "held_out": {
            "images": len(chosen),
            "patients": len(np.unique(scans.patient[held])),
            "psnr_db": float(np.mean(naive_psnr) + np.mean(gains)),
            "naive_psnr_db": float(np.mean(naive_psnr)),
        },
    }


def _inputs(
    scans: Scans, rows: list[int], degradation: Degradation, rng: np.random.Generator
) -> list[dict[str, NDArray[np.float64]]]:
    """Descriptions of images as a user may bring them: degraded, or as they are, brought to their own percentiles."""
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(_DESCRIBED, len(rows))).astype(int))]
    out = []
    for row in chosen:
        whole = fitting(scans.images[row], degradation.factor)
        measured = degradation.measure(whole, rng)
        seen = measured.seen if measured.hole is None else degradation.naive(measured)  # a hole itself is not foreign
        out += [familiar.describe(_by_percentiles(shown)) for shown in (seen, whole)]
    return out


def window_of(values_HW: NDArray[Any], hole_HW: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Values that become -1 and 1: percentiles 0.1 and 99.9 of what was seen; never an empty window."""
    seen = values_HW if hole_HW is None or hole_HW.all() else values_HW[~hole_HW]
    low, high = np.percentile(seen, (0.1, 99.9))
    return float(low), float(high if high > low else low + 1.0)


def _by_percentiles(image_HW: Image) -> Image:
    lo, hi = window_of(image_HW)
    out: Image = ((image_HW - lo) * (2 / (hi - lo)) - 1).astype(np.float32)
    return out


def fitting(image_HW: Image, factor: int) -> Image:
    """The image without the last rows and columns that `factor` does not divide."""
    return image_HW[: image_HW.shape[0] // factor * factor, : image_HW.shape[1] // factor * factor]


def _psnr(a: Image, b: Image) -> float:
    return float(10 * np.log10(4 / max(float(np.mean((a.astype(np.float64) - b) ** 2)), 1e-12)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """One restored image in the units it came in.

    `image`, `naive`, `uncertainty` (H, W) float32: the answer, the plain one, and a bound that 95 % of held-out
    errors kept below. `invented_share` is the energy of what the network added to the plain answer, relative to the
    image's own; `inconsistency` is the root mean square of A(answer) - seen, as a share of the window. `distance`
    says how far the input lay from what was learned from (beyond `limit` it would have been refused).
    """

    image: Image
    naive: Image
    uncertainty: Image
    invented_share: float
    inconsistency: float
    distance: float
    limit: float


class Unfamiliar(InvalidRequest):
    """The input lies too far from what the model has learned from: it would be turned into what the model knows."""

    kind = "unfamiliar"


class Restorer:
    """A trained restorer on disk."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`: InvalidRequest when there is no finished model, IntegrityError when weights were changed."""
        try:
            described = json.loads((folder / DESCRIPTION).read_bytes())
            self.config = RestoreConfig.from_json(described["config"])
            self.attrs: dict[str, Any] = described["attrs"]
            self.factor = float(described["uncertainty_factor"])
            self.familiar = Familiar.from_json(described["familiar"])
            self.held_out: dict[str, float] = described["held_out"]
            self.sha256: str = described["weights_sha256"]
            weights = (folder / WEIGHTS).read_bytes()
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidRequest("there is no finished restorer in this folder: train one first") from None
        if hashlib.sha256(weights).hexdigest() != self.sha256:
            raise IntegrityError("the restorer's weights are not those its description names: train it again")
        self.folder = folder
        self.degradation = TASKS[self.config.task].degradation
        self.network = Unet(self.config.shape)
        checkpoint.load_network(folder / WEIGHTS, self.network)
        self.network.eval().requires_grad_(requires_grad=False)

    def restore(
        self,
        values_HW: NDArray[Any],
        *,
        hole_HW: NDArray[np.bool_] | None = None,
        steps_88: NDArray[np.float64] | None = None,
        grey: float = 1.0,
        window: tuple[float, float] | None = None,
        refuse: bool = True,
    ) -> Restored:
        """Restore one image (H, W) of any numeric type and unit; sides at least 32 px.

        `window` fixes which values are -1 and 1 (the model's own, or the image's percentiles, where empty).
        `hole_HW` marks what is to be inpainted; `steps_88` are a JPEG file's quantisation steps, when they are known,
        in its grey levels, of which one is `grey` in the image's unit.

        Raises:
            Unfamiliar: the image is no such image as the model learned from (unless `refuse` is False).
            InvalidRequest: an image too small, not finite, or a task that misses its hole.
        """
        values = np.asarray(values_HW, np.float64)
        if values.ndim != 2 or min(values.shape) < _LEAST_PX or not np.isfinite(values).all():  # noqa: PLR2004 - a plane
            raise InvalidRequest(f"an image to restore is a plane of finite values, at least {_LEAST_PX} px each way")
        lo, hi = window or self.attrs.get("window") or window_of(values, hole_HW)
        unit = ((values - lo) * (2 / (hi - lo)) - 1).astype(np.float32)
        measured = self._measured(unit, hole_HW, steps_88, grey * 2 / (hi - lo))
        shown = unit if measured.hole is None else self.degradation.naive(measured)
        distance = self.familiar.distance(_by_percentiles(shown))
        if refuse and distance > self.familiar.limit:
            raise Unfamiliar(
                f"the image lies {distance:.2f} times as far from what this restorer learned from as is allowed: "
                "use a restorer that was trained on such images"
            )
        with fixed(self.config.threads), torch.inference_mode():
            image, scale, naive = (part[0, 0].numpy() for part in answer(self.network, self.degradation, [measured]))
        residual = self.degradation.residual(image, measured)
        bound = self.factor * np.exp(scale) + np.abs(_on_grid(residual, image.shape) if self.degradation.exact else 0)
        if measured.hole is not None:
            bound = np.where(measured.hole, bound, 0)
        half = (hi - lo) / 2
        return Restored(
            image=((image + 1) * half + lo).astype(np.float32),
            naive=((naive + 1) * half + lo).astype(np.float32),
            uncertainty=(bound * half).astype(np.float32),
            invented_share=float(np.square(image - naive).sum() / max(np.square(image - image.mean()).sum(), 1e-12)),
            inconsistency=float(np.sqrt(np.mean(np.square(residual.astype(np.float64))))) / 2,
            distance=distance,
            limit=self.familiar.limit,
        )

    def _measured(
        self, unit: Image, hole_HW: NDArray[np.bool_] | None, steps_88: NDArray[np.float64] | None, grey: float
    ) -> Measurement:
        height, width = (side * self.degradation.factor for side in unit.shape)
        if self.degradation.name == "inpaint":
            if hole_HW is None or hole_HW.shape != unit.shape:
                raise InvalidRequest(
                    "inpainting needs a mask of the image's size that is true where it is to be filled"
                )
            unit = np.where(hole_HW, np.float32(-1), unit).astype(np.float32)
        level = 0.0 if steps_88 is None else float(steps_88.mean()) * grey
        return Measurement(
            seen=unit,
            shape=(height, width),
            hole=hole_HW if self.degradation.name == "inpaint" else None,
            level=level,
            steps_88=steps_88 if self.degradation.name == "compression" else None,
            grey=grey,
        )


def _on_grid(residual: Image, shape: tuple[int, ...]) -> Image:
    """A residual on the answer's grid, each value repeated."""
    factor = shape[0] // residual.shape[0]
    return np.kron(residual, np.ones((factor, factor), np.float32)) if factor > 1 else residual
