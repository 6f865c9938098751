"""One collection's generator brought to a site, scanner or subgroup by 2 % of its parameters.

The backbone is frozen. What learns is an offset of the condition's embedding (the site's), a rank-8 mixing of channels
behind every stage (x + U V x, U starting at zero), and the biases of convolutions and norms. Each of them can be
written into an ordinary generator (`merged`): the mixing goes into the next convolution, the offset into the first
bias. So a site's model is a `TrainedModel` like any other, and everything after it (synthesis, gate, publishing) is the
same; and the base stays as it was, bit for bit: nothing is forgotten where the adapter is not used.

The critic starts from the base run's, its first two thirds frozen, and sees site and source images half and half.
Training stops when generated images come closer to training images than to held-out ones of the site (Karras et al.
2020 see the same in the critic's logits; the distance is what counts for privacy).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medgan.errors import IntegrityError, InvalidRequest, TrainingDiverged
from medgan.gan import checkpoint
from medgan.gan.arithmetic import fixed
from medgan.gan.augment import Warp
from medgan.gan.conditions import encode, joined, width
from medgan.gan.config import TrainConfig
from medgan.gan.discriminator import build as build_discriminator
from medgan.gan.generator import Generator
from medgan.gan.generator import build as build_generator
from medgan.gan.images import TrainingSet
from medgan.gan.layers import SmoothUp
from medgan.gan.loss import LOSSES, squared_gradients
from medgan.gan.sample import WEIGHTS, Sampler
from medgan.gan.sketch import HALF_WAY
from medgan.records.adapter import AdaptRequest

STATE = "state.safetensors"
_BATCH = 16
_PENALTY_EVERY, _GAMMA = 4, 0.2
_LOOK_EVERY = 100
_HELD_OUT = 0.1
_POOL_PX = 8
CLOSER_TO_TRAIN = 0.65
"""Share of generated images that may lie nearer to training images than to as many held-out ones before it stops."""

OnProgress = Callable[[int, int], None]


class ChannelMix(nn.Module):
    """A stage followed by x + U V x on its channels, rank r; U starts at zero, so that it starts as nothing."""

    def __init__(self, stage: nn.Module, channels: int, rank: int) -> None:
        """Wrap a stage that gives `channels`; the rank is at most half of them."""
        super().__init__()
        rank = min(rank, max(1, channels // 2))
        self.stage = stage
        self.down = nn.Parameter(torch.randn(rank, channels) / channels**0.5)
        self.up = nn.Parameter(torch.zeros(channels, rank))

    def matrix(self) -> Tensor:
        """I + U V."""
        return torch.eye(len(self.up), device=self.up.device) + self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage and mix its channels (N, C, ...)."""
        out: Tensor = self.stage(x)
        return torch.einsum("dc,nc...->nd...", self.matrix(), out)


class Shifted(nn.Module):
    """The first layer with an offset of the condition's embedding, its last inputs."""

    def __init__(self, start: nn.Linear, embedding_dim: int) -> None:
        """Wrap the first layer."""
        super().__init__()
        self.start = start
        self.offset = nn.Parameter(torch.zeros(embedding_dim))

    def shift(self) -> Tensor:
        """What the offset adds to the layer's bias."""
        return self.start.weight[:, self.start.in_features - len(self.offset) :] @ self.offset

    def forward(self, x_NF: Tensor) -> Tensor:
        """Run the layer."""
        out: Tensor = self.start(x_NF)
        return out + self.shift()


class Adapted(nn.Module):
    """A frozen generator with its adapter."""

    def __init__(self, base: Generator, rank: int) -> None:
        """Copy `base`; only the adapter and the biases and norms of the stages are left to learn."""
        super().__init__()
        self.body = deepcopy(base).requires_grad_(requires_grad=False)
        self.bare = [deepcopy(base)]  # in a list, so that it is no child: the shape to merge into
        self.body.start = Shifted(self.body.start, base.embedding.embedding_dim)  # type: ignore[assignment]
        for parameter in [*self.body.stages.parameters(), *self.body.finish.parameters()]:
            parameter.requires_grad_(parameter.ndim == 1)
        before = base.start.out_features // int(np.prod(base.base[1:]))
        mixes = []
        for stage in self.body.stages:
            before = _channels(_first_layer(stage), before)
            mixes.append(ChannelMix(stage, before, rank))
        self.body.stages = nn.ModuleList(mixes)
        self.names = tuple(name for name, one in self.named_parameters() if one.requires_grad)

    def forward(self, z_NZ: Tensor, c: Tensor) -> Tensor:
        """Images as the generator makes them, of the site."""
        made: Tensor = self.body(z_NZ, c)
        return made

    def learned(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        held = dict(self.named_parameters())
        return {name: held[name] for name in self.names}

    def share(self) -> float:
        """Learned parameters as a share of the base's."""
        total = sum(one.numel() for one in self.bare[0].parameters())
        return sum(one.numel() for one in self.learned().values()) / total

    def merged(self) -> Generator:
        """An ordinary generator that makes the same images."""
        made = deepcopy(self.bare[0]).eval()
        start, mixes = self.body.start, list(self.body.stages)
        with torch.no_grad():
            made.start.bias.add_(start.shift())  # type: ignore[operator]  # torch types a child as Tensor or Module
            for mine, theirs in zip(made.stages, mixes, strict=True):
                mine.load_state_dict(theirs.stage.state_dict())  # type: ignore[union-attr]
            made.finish.load_state_dict(self.body.finish.state_dict())
            followers = [_first_layer(stage) for stage in list(made.stages)[1:]] + [made.finish]
            for mix, layer in zip(mixes, followers, strict=True):
                _mix_inputs(layer, mix.matrix())  # type: ignore[operator]
            if made.sketch is not None:  # is read behind the mixing, so it must come through it unmixed
                unmixed = torch.linalg.inv(mixes[HALF_WAY].matrix())  # type: ignore[operator]
                for part in made.sketch.read.parameters():
                    part.copy_(torch.einsum("dc,c...->d...", unmixed, part))
        return made.requires_grad_(requires_grad=False)


_TRANSPOSED = (SmoothUp, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weight is (c_in, c_out, ...)."""


def _channels(layer: nn.Module, before: int) -> int:
    """Channels that leave a stage which begins with `layer`."""
    return int(layer.weight.shape[1]) if isinstance(layer, _TRANSPOSED) else before


def _first_layer(stage: nn.Module) -> nn.Module:
    return next(iter(stage.children()))


def _mix_inputs(layer: nn.Module, matrix: Tensor) -> None:
    """W(M x) as one layer: M goes into the weight along its input channels."""
    if isinstance(layer, _TRANSPOSED):
        layer.weight.copy_(torch.einsum("dc,do...->co...", matrix, layer.weight))
    elif isinstance(layer, nn.Conv2d | nn.Conv3d):
        layer.weight.copy_(torch.einsum("dc,od...->oc...", matrix, layer.weight))
    else:
        raise InvalidRequest("this backbone cannot be adapted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What adapting gave: the network, steps kept, and the share of images nearer to training ones when it stopped."""

    network: Adapted
    steps: int
    closer_to_train: float
    stopped_early: bool


def open_base(folder: Path, *, sha256: str | None = None) -> tuple[Sampler, Generator, nn.Module]:
    """Sampler, generator and critic of a finished run; a critic whose state is gone starts fresh.

    Raises:
        InvalidRequest: no finished model, or a backbone without stages.
        IntegrityError: weights that are not those of `sha256`.
    """
    sampler = Sampler(folder, sha256=sha256)
    generator = build_generator(sampler.config, len(sampler.classes), width(sampler.fields))
    if not isinstance(generator, Generator):
        raise InvalidRequest("a dense generator has no stages to adapt: train another recipe")
    if sha256 and hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != sha256:
        raise IntegrityError("the base's weights are not those its record names: train it again")
    checkpoint.load_network(folder / WEIGHTS, generator)
    generator.eval()
    critic = build_discriminator(sampler.config, len(sampler.classes), width(sampler.fields))
    try:
        held = load_file(folder / STATE)
        critic.load_state_dict({key[2:]: one for key, one in held.items() if key.startswith("d/")})
    except (OSError, SafetensorError, RuntimeError):
        pass
    return sampler, generator, critic


def adapt(
    folder: Path,
    site: TrainingSet,
    request: AdaptRequest,
    *,
    patients: NDArray[Any],
    source: TrainingSet | None = None,
    sha256: str | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Adapt the model in `folder` to the images of a site; `patients` (N,) says whose each is.

    `source` are real images of the base's own training set against forgetting; where it is not given the base's own
    synthetic images stand in for them. A tenth of the patients (one at least, where there are two) never trains.

    Raises:
        InvalidRequest: another image size, classes the base does not know.
        TrainingDiverged: a loss became non-finite.
    """
    sampler, base, critic = open_base(folder, sha256=sha256)
    config = sampler.config
    if config.dims != 2:  # noqa: PLR2004 - planes
        raise InvalidRequest("volumes are not adapted yet: choose a base that makes planes")
    if site.pixels.shape[1] != config.size_px:
        raise InvalidRequest(f"the base makes images of {config.size_px} px but the site's have {site.pixels.shape[1]}")
    if set(site.classes) - set(sampler.classes):
        raise InvalidRequest("the site has classes that the base does not know: adapt another base")
    with fixed(config.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        run = _Run(sampler=sampler, base=base, critic=critic, site=site, source=source, request=request)
        return run.play(_held_out(patients), on_progress)


def _held_out(patients: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) True for images of the tenth of patients that never trains."""
    names = np.unique(patients)
    if len(names) < 2:  # noqa: PLR2004 - one patient cannot be split
        return np.zeros(len(patients), bool)
    chosen = np.random.default_rng(0).permutation(names)[: max(1, round(_HELD_OUT * len(names)))]
    return np.isin(patients, chosen)


@dataclass(kw_only=True)
class _Run:
    """One adaptation."""

    sampler: Sampler
    base: Generator
    critic: nn.Module
    site: TrainingSet
    source: TrainingSet | None
    request: AdaptRequest

    def __post_init__(self) -> None:
        """Freeze what stays, make the optimisers."""
        self.config: TrainConfig = self.sampler.config
        self.adapted = Adapted(self.base, self.request.rank)
        self.average = deepcopy(self.adapted).requires_grad_(requires_grad=False)
        layers = [self.critic.enter, *self.critic.stages, self.critic.gather, self.critic.judge]  # type: ignore[misc]
        self.frozen = layers[: -(-2 * len(layers) // 3)]
        learning = [one for layer in layers[len(self.frozen) :] for one in layer.parameters()]
        self.learning_d = [*learning, *self.critic.embedding.parameters()]  # type: ignore[union-attr]
        self.critic.requires_grad_(requires_grad=False)
        rate = self.request.learning_rate
        self.optimiser_g = torch.optim.Adam(self.adapted.learned().values(), lr=rate, betas=(0.5, 0.99), fused=True)
        self.optimiser_d = torch.optim.Adam(self.learning_d, lr=rate, betas=(0.5, 0.99), fused=True)
        self.class_of = np.array([self.sampler.classes.index(name) for name in self.site.classes])

    def play(self, held: NDArray[np.bool_], on_progress: OnProgress | None) -> Outcome:
        """Step until done, or until images come nearer to training images than to held-out ones."""
        rows = np.flatnonzero(~held)
        kept, closer = deepcopy(self.average.state_dict()), 0.5
        for step in range(self.request.steps):
            self.step(step, rows)
            if (step + 1) % _LOOK_EVERY == 0 or step + 1 == self.request.steps:
                looked = self.look(rows, np.flatnonzero(held))
                if looked > CLOSER_TO_TRAIN:
                    self.average.load_state_dict(kept)
                    return Outcome(network=self.average, steps=step + 1, closer_to_train=looked, stopped_early=True)
                kept, closer = deepcopy(self.average.state_dict()), looked
                if on_progress is not None:
                    on_progress(step + 1, self.request.steps)
        return Outcome(network=self.average, steps=self.request.steps, closer_to_train=closer, stopped_early=False)

    def step(self, step: int, rows: NDArray[np.int64]) -> None:
        """The critic on site and source, then the adapter."""
        rng = np.random.Generator(np.random.Philox(key=[self.request.seed, step]))
        chosen = rng.choice(rows, _BATCH)
        real = torch.from_numpy(self.site.batch(chosen)[0])
        c = self.conditions(self.class_of[self.site.class_index[chosen]])
        z = torch.from_numpy(rng.standard_normal((_BATCH, self.config.latent_dim), dtype=np.float32))
        warps = [Warp(self.config, _BATCH, rng) for _ in range(2)]
        old_real, old_fake, old_c = self.source_pair(rng)
        with torch.no_grad():
            fake = self.adapted(z, c)
        for one in self.learning_d:
            one.requires_grad_(requires_grad=True)
        penalised = step % _PENALTY_EVERY == 0
        x, y = (
            part.detach().requires_grad_(penalised)
            for part in (torch.cat([warps[0](real), old_real]), torch.cat([warps[1](fake), old_fake]))
        )
        both = torch.cat([c, old_c])
        real_N, fake_N = self.critic(x, both), self.critic(y, both)
        loss = LOSSES["r3"].discriminator(real_N, fake_N)
        if penalised:
            r1_N, r2_N = squared_gradients(torch.cat([real_N, fake_N]), x, y)
            loss = loss + _PENALTY_EVERY * _GAMMA / 2 * (r1_N.mean() + r2_N.mean())
        _descend(self.optimiser_d, loss)
        for one in self.learning_d:
            one.requires_grad_(requires_grad=False)
        warp = Warp(self.config, _BATCH, rng)
        judged_real = self.critic(warp(real), c)
        loss_g = LOSSES["r3"].generator(judged_real, self.critic(warp(self.adapted(z, c)), c))
        _descend(self.optimiser_g, loss_g)
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.adapted.parameters(), strict=True):
                mean.lerp_(now, 0.02)

    def conditions(self, class_N: NDArray[np.int64]) -> Tensor:
        """`c` of classes, other fields unknown."""
        return torch.from_numpy(joined(class_N, encode(self.sampler.fields, {}, len(class_N))))

    def source_pair(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """As many source images with the frozen base's, under their classes."""
        source = self.source
        if source is None:
            classes = rng.integers(len(self.sampler.classes), size=_BATCH)
        else:
            chosen = rng.integers(len(source.class_index), size=_BATCH)
            of = np.array([self.sampler.classes.index(name) for name in source.classes])
            classes = of[source.class_index[chosen]]
        c = self.conditions(classes)
        with torch.no_grad():
            z = rng.standard_normal((2, _BATCH, self.config.latent_dim), dtype=np.float32)
            made = self.base(torch.from_numpy(z[0]), c)
            real = self.base(torch.from_numpy(z[1]), c) if source is None else torch.from_numpy(source.batch(chosen)[0])
        return real, made, c

    def look(self, rows: NDArray[np.int64], held: NDArray[np.int64]) -> float:
        """Share of 256 images nearer to training images than to as many held-out ones; 0.5 is honest."""
        if not len(held):
            return 0.5
        rng = np.random.default_rng(0)
        train = rng.permutation(rows)[: len(held)]
        ours = [_pooled(torch.from_numpy(self.site.batch(part)[0])) for part in (train, held)]
        z = torch.from_numpy(rng.standard_normal((256, self.config.latent_dim), dtype=np.float32))
        c = self.conditions(self.class_of[self.site.class_index[rng.choice(rows, 256)]])
        with torch.inference_mode():
            made = _pooled(self.average(z, c))
        to_train, to_held = (torch.cdist(made, part).min(1).values for part in ours)
        return float((to_train < to_held).float().mean())


def _pooled(x_NCHW: Tensor) -> Tensor:
    """(N, F) of zero mean and unit norm: correlation as a distance, at 8 times 8 pixels a side at least."""
    small = nn.functional.adaptive_avg_pool2d(x_NCHW, max(_POOL_PX, x_NCHW.shape[-1] // 2)).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    normal: Tensor = centred / (centred.norm(dim=1, keepdim=True) + 1e-8)
    return normal


def _descend(optimiser: torch.optim.Adam, loss: Tensor) -> None:
    if not isfinite(float(loss.detach())):
        raise TrainingDiverged("a loss became non-finite while adapting: lower learning_rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def save_adapter(path: Path, adapted: Adapted) -> str:
    """Write what was learned, and nothing of the base; the file's digest."""
    holder = nn.ParameterDict({name.replace(".", "-"): one for name, one in adapted.learned().items()})
    checkpoint.save_network(path, holder)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_adapter(path: Path, base: Generator, rank: int) -> Adapted:
    """The adapted generator that `save_adapter` wrote; `IntegrityError` where it belongs to another base."""
    adapted = Adapted(base, rank)
    holder = nn.ParameterDict({name.replace(".", "-"): one for name, one in adapted.learned().items()})
    checkpoint.load_network(path, holder)
    return adapted
