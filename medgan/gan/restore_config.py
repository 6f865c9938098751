"""How a restorer is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from medgan.errors import InvalidRequest
from medgan.gan.degrade import task
from medgan.gan.restorer import Shape

Optimiser = Literal["muon", "adam"]
CODE_VERSION = 8
LEAST_PX = 32
"""Sides of images and windows are this long at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig:
    """One training run. `steps` of pixels alone, then `adversarial_steps` against the critic."""

    task: str
    steps: int = 3000
    adversarial_steps: int = 1000
    seed: int = 0
    window_px: int = 64
    batch: int = 8
    stripped_share: float = 0.5  # of the windows that lose a part to no signal, sharply
    optimiser: Optimiser = "muon"  # of the generator
    learning_rate: float = 2e-3
    learning_rate_critic: float = 4e-4
    pixel_weight: float = 10.0
    hole_weight: float = 2.0  # errors inside a hole count so many times as much
    spectrum_share: float | None = None  # what the critic's phase aims at; the task's where it is not given
    adversarial_weight: float = 0.05  # beside the spectrum's, which is found while training
    gamma: float = 0.1
    penalty_every: int = 8
    ema_half_life_images: float = 500.0
    shape: Shape = field(default_factory=Shape)
    threads: int = 1
    tick_steps: int = 250

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        factor = task(self.task).degradation.factor
        if self.window_px < LEAST_PX or self.window_px % (8 * factor // 2):
            raise InvalidRequest(f"window_px must be at least {LEAST_PX} and a multiple of {8 * factor // 2}")
        if min(self.steps, self.batch, self.tick_steps) < 1 or self.adversarial_steps < 0:
            raise InvalidRequest("steps, batch and tick_steps start at 1")
        if self.optimiser not in get_args(Optimiser) or not 0 <= self.stripped_share <= 1:
            raise InvalidRequest("optimiser is muon or adam, stripped_share lies between 0 and 1")

    @property
    def aim(self) -> float:
        """Share of the spectrum's distance that is to be left."""
        return task(self.task).spectrum_share if self.spectrum_share is None else self.spectrum_share

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
