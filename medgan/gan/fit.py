"""The training loop on plain arrays: rounds, ticks, exact resume, roll-back. Needs numpy, torch and safetensors only.

A folder holds one run: `state.safetensors` (resume), `train.jsonl` (one line a tick), `grids/` (one PNG a tick), and
in the end `generator.safetensors` and `config.json`, which are all that `sample` needs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from medgan.collection import durable
from medgan.errors import InvalidRequest, TrainingDiverged
from medgan.gan import checkpoint, conditions, grid
from medgan.gan.arithmetic import fixed
from medgan.gan.config import TrainConfig
from medgan.gan.generator import Generator
from medgan.gan.images import TrainingSet
from medgan.gan.look import GRID_SIDE, Judge, Watch, judged, polish, preview, relative_spread
from medgan.gan.parallel import ALONE, World
from medgan.gan.sample import CONFIG, FORMAT, WEIGHTS
from medgan.gan.step import Best, Players, Score, play

if TYPE_CHECKING:
    from medgan.gan.private import Game, Noise

STATE, CURVE, GRIDS, BEST = "state.safetensors", "train.jsonl", "grids", "best.safetensors"
_WATCH_FROM_KIMG, _LEAST_SPREAD = 20.0, 0.2
"""A generator whose images differ less than a fifth as much as real ones has collapsed; younger ones are let be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Progress: means since the last tick. `grid` is the picture just written; `retreats` counts roll-backs.

    `spread` is how much generated images differ from each other, real ones being 1: near 0 is a collapse. `distance`
    is what a judge says of them, lower being better.
    """

    step: int
    kimg: float
    total_kimg: float
    kimg_per_second: float
    seconds: float
    loss_d: float
    loss_g: float
    d_real: float
    d_fake: float
    spread: float
    distance: float | None
    retreats: int
    grid: Path


OnTick = Callable[[Tick], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """Whose each training image is (N,), and `reserve`, called before any noise is drawn.

    It gets the run's name and what the run will spend, may refuse by raising, and is called again on every resume
    with the same name.
    """

    patients: NDArray[np.object_]
    reserve: Callable[[str, Noise], None] = lambda _run, _noise: None


class Trained(NamedTuple):
    """Seconds of training, resumes included, and thousands of real images that the kept weights have seen."""

    seconds: float
    kimg: float


def fit(
    images: TrainingSet,
    config: TrainConfig,
    folder: Path,
    *,
    attrs: dict[str, Any] | None = None,
    on_tick: OnTick | None = None,
    world: World = ALONE,
    private: Private | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train into `folder`, going on from what stands there.

    `attrs` says how stored values become physical ones and is kept for the sampler. In a `world` of several
    processes the first one writes, and all read the same folder. A configuration with `privacy` needs `private`, one
    with `patience_kimg` needs `watch`, which makes the judge of every tick's images; under `privacy` it is not asked,
    because nothing noises what it sees.

    Raises:
        InvalidRequest: images of another size, a batch the processes cannot share, a device that is not there.
        TrainingDiverged: a loss became non-finite, or images collapsed, more often than `config.retreats`.
        StoreUnavailable: the disk refuses; what stands goes on from its last tick.
    """
    _check(images, config, world)
    if config.patience_kimg and watch is None:
        raise InvalidRequest("patience_kimg waits for a judge's distance: say who judges, or set it to 0")
    if config.privacy is not None and (private is None or len(private.patients) != len(images.class_index)):
        raise InvalidRequest("differential privacy protects patients: say whose each training image is")
    with fixed(config.threads), durable.explained_disk():
        if world.leads:
            (folder / GRIDS).mkdir(parents=True, exist_ok=True)
        run = Run(images=images, config=config, folder=folder, world=world, on_tick=on_tick, private=private)
        run.resume()
        if watch and config.privacy is None and not run.over:
            run.judge = watch(images)
        while not run.over:
            run.play_until_tick()
        kept = run.players.best.step if config.patience_kimg else run.players.step
        if world.leads:
            if kept < run.players.step:
                checkpoint.load_network(folder / BEST, run.players.average)
            if config.match_spectrum:
                polish(config, run.players, images)
            checkpoint.save_network(folder / WEIGHTS, run.players.average)
            described = {
                "config": asdict(config),
                "format": FORMAT,
                "classes": list(images.classes),
                "fields": conditions.to_json(images.fields),
                "attrs": {"intensity_range": [images.lo, images.hi], **(attrs or {})},
            }
            text = json.dumps(described, sort_keys=True, indent=1, allow_nan=False)
            durable.write_bytes(folder / CONFIG, text.encode())
            if config.privacy is not None:
                from medgan.gan.private import forget

                forget(folder)
        world.wait()
    return Trained(run.seconds, kept * config.batch / 1000)


def _check(images: TrainingSet, config: TrainConfig, world: World) -> None:
    if images.dims != config.dims:
        raise InvalidRequest(f"the recipe makes images of {config.dims} dimensions and these have {images.dims}")
    if images.pixels.shape[1] != config.size_px:
        raise InvalidRequest(f"the recipe trains at {config.size_px} px but images have {images.pixels.shape[1]}")
    if config.batch % world.size:
        raise InvalidRequest(f"{world.size} processes cannot share a batch of {config.batch} equally")
    if world.size > 1 and "batch" in {config.norm_g, config.norm_d}:
        raise InvalidRequest("batch norm looks at the whole batch: share a batch with norm_g and norm_d `none` only")
    if world.size > 1 and config.privacy is not None:
        raise InvalidRequest("a training under differential privacy runs in one process")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("this recipe needs a GPU and there is none here: choose one that ends in _cpu")


@dataclass(kw_only=True)
class Run:
    """One run in its folder: the players, the clock, and what is written at a tick."""

    images: TrainingSet
    config: TrainConfig
    folder: Path
    world: World
    on_tick: OnTick | None
    private: Private | None = None
    game: Game | None = None
    judge: Judge | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Make fresh players."""
        self.players = self.fresh()
        self.identity = _identity(self.config, self.images, self.private)

    @property
    def over(self) -> bool:
        """Whether every round is played, or the judge's distance has not fallen for as long as patience lasts."""
        waited = (self.players.step - self.players.best.step) * self.config.batch
        weary = 0 < 1000 * self.config.patience_kimg <= waited
        return weary or self.players.step >= self.config.total_steps

    def fresh(self) -> Players:
        """Players who have not played."""
        players = Players.start(self.config, len(self.images.classes), conditions.width(self.images.fields))
        for network in (players.generator, players.average):
            if isinstance(network, Generator):
                network.learn(self.images)
        return players

    def resume(self) -> None:
        """Go on from the folder's state, or write the first one."""
        position = checkpoint.load_state(self.folder / STATE, self.players, config_sha256=self.identity)
        self.world.wait()  # nobody writes before everybody has read
        self.seconds = position.seconds if position else 0.0
        if self.world.leads:
            _truncate_curve(self.folder / CURVE, self.players.step)
            if position is None:
                self.save()
        self.world.wait()
        if self.config.privacy is not None and self.private and self.players.step < self.config.total_steps:
            from medgan.gan.private import Game  # scipy and cryptography, which no other training needs

            self.game = Game(self.config, self.images, self.private.patients, self.folder, name=self.identity)
            self.private.reserve(self.game.secret.fingerprint, self.game.noise)

    def save(self) -> None:
        """Write the state to resume from."""
        path = self.folder / STATE
        checkpoint.save_state(path, self.players, seconds=self.seconds, config_sha256=self.identity)

    def play_until_tick(self) -> None:
        """Play until the next tick, then write grid, curve and state. Rolls back on a non-finite loss."""
        begun, first = time.perf_counter(), self.players.step
        every = self.config.tick_steps
        goal = min(self.config.total_steps, (first // every + 1) * every)
        scores: list[Score] = []
        while self.players.step < goal:
            score = (
                self.game.play(self.players) if self.game else play(self.config, self.players, self.images, self.world)
            )
            if not all(isfinite(value) for value in score):
                self.seconds += time.perf_counter() - begun
                self.retreat()
                return
            scores.append(score)
        spent = time.perf_counter() - begun
        self.seconds += spent
        made_NHW = preview(self.config, self.players, self.images)
        spread = relative_spread(made_NHW, None if self.game else self.images)
        watched = self.game is None and self.players.step * self.config.batch >= 1000 * _WATCH_FROM_KIMG
        if self.world.mean(float(watched and spread < _LEAST_SPREAD)) > 0:
            self.retreat()
            return
        distance = self.judged()
        mean = Score(*(fmean(values) for values in zip(*scores, strict=True)))
        if self.world.leads:
            self.tell(mean, len(scores), spent, made_NHW, spread, distance)
        self.world.wait()

    def judged(self) -> float | None:
        """The judge's distance, the same in every process; a new best is kept until the run's end."""
        if self.judge is None:
            return None
        distance = self.world.mean(judged(self.config, self.players, self.images, self.judge))
        if distance < self.players.best.distance:
            self.players.best = Best(distance=distance, step=self.players.step)
            if self.world.leads and self.config.patience_kimg:
                checkpoint.save_network(self.folder / BEST, self.players.average)
        return distance

    def tell(
        self,
        mean: Score,
        steps: int,
        spent: float,
        made_NHW: NDArray[np.uint16],
        spread: float,
        distance: float | None,
    ) -> None:
        """Write grid, curve and state of a tick, and call back."""
        kimg = self.players.step * self.config.batch / 1000
        path = self.folder / GRIDS / f"{int(kimg):06d}.png"
        flat_NHW = made_NHW if self.config.dims == 2 else made_NHW[:, self.config.size_px // 2]  # noqa: PLR2004
        grey_NHW = grid.to_grey(flat_NHW, self.images.lo, self.images.hi)
        durable.write_bytes(path, grid.png(grid.tile(grey_NHW, GRID_SIDE)))
        tick = Tick(
            step=self.players.step,
            kimg=kimg,
            total_kimg=self.config.total_steps * self.config.batch / 1000,
            kimg_per_second=steps * self.config.batch / 1000 / spent,
            seconds=self.seconds,
            spread=spread,
            distance=distance,
            retreats=self.players.retreats,
            grid=path,
            **mean._asdict(),
        )
        with (self.folder / CURVE).open("a") as curve:
            curve.write(json.dumps({**asdict(tick), "grid": path.name}, sort_keys=True) + "\n")
        self.save()
        if self.on_tick:
            self.on_tick(tick)

    def retreat(self) -> None:
        """Back to the last state: the generator from its moving average, fresh optimisers, half the step."""
        if self.game:  # the same noise must never be added to other gradients
            raise TrainingDiverged(
                "a logit became non-finite under differential privacy, and what this training reserved is spent: "
                "lower learning_rate"
            )
        retreats = self.players.retreats + 1
        if retreats > self.config.retreats:
            raise TrainingDiverged(
                f"a loss became non-finite or the images all alike {retreats} times, the last at "
                f"{self.players.step * self.config.batch / 1000:.1f} kimg: lower learning_rate or raise gamma"
            )
        self.players = self.fresh()
        checkpoint.load_state(self.folder / STATE, self.players, config_sha256=self.identity, weights_only=True)
        self.world.wait()
        self.players.generator.load_state_dict(self.players.average.state_dict())
        self.players.retreats = retreats
        if self.world.leads:
            self.save()
        self.world.wait()


def _identity(config: TrainConfig, images: TrainingSet, private: Private | None) -> str:
    """Digest of what a state belongs to: the configuration and what the training set looks like from outside.

    A sketch depends on whose the images are. Where noise hides the pixels, exactly which pixels and whose: the same
    noise on other images would uncover both.
    """
    facts = [
        config.digest,
        images.pixels.shape,
        images.classes,
        images.lo,
        images.hi,
        conditions.to_json(images.fields),
    ]
    if config.sketch and images.patients is not None:
        facts.append(hashlib.sha256("\n".join(map(str, images.patients.tolist())).encode()).hexdigest())
    if private is not None and config.privacy is not None:
        facts += [
            hashlib.sha256(np.ascontiguousarray(images.pixels).tobytes()).hexdigest(),
            hashlib.sha256(images.class_index.tobytes()).hexdigest(),
            hashlib.sha256("\n".join(map(str, private.patients)).encode()).hexdigest(),
        ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _truncate_curve(path: Path, step: int) -> None:
    """Forget the lines of a curve that lie beyond the state a run resumes from."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        durable.write_bytes(path, "".join(line + "\n" for line in lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut in half
