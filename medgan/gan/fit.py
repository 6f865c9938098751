"""The training loop on plain arrays: rounds, ticks, exact resume, roll-back. Needs numpy, torch and safetensors only.

A folder holds one run: `state.safetensors` (resume), `train.jsonl` (one line a tick), `grids/` (one PNG a tick), and
in the end `generator.safetensors` and `config.json`, which are all that `sample` needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medgan.errors import InvalidRequest, TrainingDiverged
from medgan.gan import checkpoint, grid
from medgan.gan.arithmetic import fixed
from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet, to_stored
from medgan.gan.sample import CONFIG, WEIGHTS
from medgan.gan.step import Players, Score, play

STATE, CURVE, GRIDS = "state.safetensors", "train.jsonl", "grids"
_GRID_SIDE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Progress: means since the last tick. `grid` is the picture just written; `retreats` counts roll-backs."""

    step: int
    kimg: float
    total_kimg: float
    kimg_per_second: float
    seconds: float
    loss_d: float
    loss_g: float
    d_real: float
    d_fake: float
    retreats: int
    grid: Path


OnTick = Callable[[Tick], None]


def fit(
    images: TrainingSet,
    config: TrainConfig,
    folder: Path,
    *,
    attrs: dict[str, Any] | None = None,
    on_tick: OnTick | None = None,
) -> float:
    """Train into `folder`, going on from what stands there; seconds of training, resumes included.

    `attrs` says how stored values become physical ones and is kept for the sampler. `TrainingDiverged` when a loss
    became non-finite more often than `config.retreats`.
    """
    if images.pixels.shape[1] != config.size_px:
        raise InvalidRequest(f"the recipe trains at {config.size_px} px but images have {images.pixels.shape[1]}")
    (folder / GRIDS).mkdir(parents=True, exist_ok=True)
    with fixed(config.threads):
        players = Players.start(config, len(images.classes))
        position = checkpoint.load_state(folder / STATE, players, config_sha256=config.digest)
        seconds = position.seconds if position else 0.0
        _truncate_curve(folder / CURVE, players.step)
        if position is None:
            checkpoint.save_state(folder / STATE, players, seconds=0.0, config_sha256=config.digest)
        while players.step < config.total_steps:
            seconds = _tick(images, config, players, folder, seconds, on_tick)
        checkpoint.save_network(folder / WEIGHTS, players.average)
    described = {
        "config": asdict(config),
        "classes": list(images.classes),
        "attrs": {"intensity_range": [images.lo, images.hi], **(attrs or {})},
    }
    text = json.dumps(described, sort_keys=True, indent=1, allow_nan=False)
    checkpoint.write_atomically(folder / CONFIG, text.encode())
    return seconds


def _tick(
    images: TrainingSet,
    config: TrainConfig,
    players: Players,
    folder: Path,
    seconds: float,
    on_tick: OnTick | None,
) -> float:
    """Play until the next tick, then write state, curve and grid; seconds so far. Rolls back on a non-finite loss."""
    begun = time.perf_counter()
    first = players.step
    goal = min(config.total_steps, (first // config.tick_steps + 1) * config.tick_steps)
    scores: list[Score] = []
    while players.step < goal:
        score = play(config, players, images)
        if not all(isfinite(value) for value in score):
            _retreat(config, players, folder)
            return seconds + time.perf_counter() - begun
        scores.append(score)
    path = folder / GRIDS / f"{players.step * config.batch // 1000:06d}.png"
    checkpoint.write_atomically(path, grid.png(preview(config, players, images)))
    spent = time.perf_counter() - begun
    mean = Score(*(fmean(values) for values in zip(*scores, strict=True)))
    tick = Tick(
        step=players.step,
        kimg=players.step * config.batch / 1000,
        total_kimg=config.total_steps * config.batch / 1000,
        kimg_per_second=(players.step - first) * config.batch / 1000 / spent,
        seconds=seconds + spent,
        retreats=players.retreats,
        grid=path,
        **mean._asdict(),
    )
    line = json.dumps({**asdict(replace(tick)), "grid": path.name}, sort_keys=True)
    with (folder / CURVE).open("a") as curve:
        curve.write(line + "\n")
    checkpoint.save_state(folder / STATE, players, seconds=tick.seconds, config_sha256=config.digest)
    if on_tick:
        on_tick(tick)
    return tick.seconds


def _retreat(config: TrainConfig, players: Players, folder: Path) -> None:
    """Back to the last state: the generator from its moving average, fresh optimisers, half the step."""
    retreats = players.retreats + 1
    if retreats > config.retreats:
        raise TrainingDiverged(
            f"a loss became non-finite {retreats} times, the last at {players.step * config.batch / 1000:.1f} kimg: "
            "lower learning_rate or raise gamma"
        )
    classes = int(players.average.get_parameter("embedding.weight").shape[0]) - 1
    fresh = Players.start(config, classes)
    position = checkpoint.load_state(folder / STATE, fresh, config_sha256=config.digest)
    seconds = position.seconds if position else 0.0
    fresh.generator.load_state_dict(fresh.average.state_dict())
    players.generator.load_state_dict(fresh.generator.state_dict())
    players.discriminator.load_state_dict(fresh.discriminator.state_dict())
    players.average.load_state_dict(fresh.average.state_dict())
    renewed = Players.start(config, classes)
    for old, new in ((players.optimiser_g, renewed.optimiser_g), (players.optimiser_d, renewed.optimiser_d)):
        old.load_state_dict(new.state_dict())
    players.step, players.retreats = fresh.step, retreats
    checkpoint.save_state(folder / STATE, players, seconds=seconds, config_sha256=config.digest)


def preview(config: TrainConfig, players: Players, images: TrainingSet) -> NDArray[np.uint8]:
    """Grid of 64 images of the moving average, rows cycling through the classes, always from the same latents."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, 1 << 62]))
    count = _GRID_SIDE**2
    z = torch.from_numpy(rng.standard_normal((count, config.latent_dim), dtype=np.float32))
    c = torch.arange(count) // _GRID_SIDE % len(images.classes)
    with torch.inference_mode():
        made = players.average(z, c)[:, 0].numpy()
    stored = to_stored(made, images.lo, images.hi)
    return grid.tile(grid.to_grey(stored, images.lo, images.hi), _GRID_SIDE)


def _truncate_curve(path: Path, step: int) -> None:
    """Forget the lines of a curve that lie beyond the state a run resumes from."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        checkpoint.write_atomically(path, "".join(line + "\n" for line in lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut in half
