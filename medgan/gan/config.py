"""What to train and how: a frozen configuration, checked when it is made. Named ones are in `recipes`.

Every historical system is a configuration: loss, penalty, backbone and optimiser are independent choices.
Its digest travels to the model and the datasheet.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from math import isfinite, log2
from typing import Any, Literal

from medgan.errors import InvalidRequest

CODE_VERSION = 1
"""Raised whenever a change of this package changes the weights that a configuration trains."""

Loss = Literal["r3", "gan-minimax", "gan-ns", "wgan-clip", "wgan-gp", "hinge"]
Backbone = Literal["dcgan", "residual", "dense"]
Norm = Literal["none", "batch"]
Resample = Literal["smooth", "strided"]
_LATER: dict[str, Any] = {"patience_kimg": 0.0, "sketch": 0, "sketch_weight": 0.0, "spectrum_target": "all"}
"""Choices that came later, with the value that was the only one before."""
_BASE_PX = 4
_SKETCH_PX = 16
_SKETCH_WIDTHS = 3  # the third is that of 16 px, where a sketch is read
_MOST_VOXELS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DP:
    """The guarantee asked for of one training.

    `delta` should not exceed 1 / (10 x patients); `clip` bounds one patient's gradient.
    """

    epsilon: float
    delta: float
    clip: float = 1.0
    unit: str = "patient"

    def __post_init__(self) -> None:
        """Refuse what is no guarantee."""
        if not (self.epsilon > 0 and 0 < self.delta < 1 and self.clip > 0 and self.unit == "patient"):
            raise InvalidRequest("epsilon and clip must be positive, delta in (0, 1), and the unit is the patient")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run, complete: the same config, data and machine give the same weights bit for bit.

    `widths` are channels from 4 px upward, one a doubling; one entry more than doublings adds a stage at full
    resolution, otherwise the last upsampling makes the image (as in DCGAN).
    """

    recipe: str
    size_px: int
    total_kimg: float
    seed: int = 0
    dims: Literal[2, 3] = 2  # 3: volumes of size_px voxels a side
    # networks
    backbone: Backbone = "dcgan"
    widths: tuple[int, ...] = (96, 48, 24)
    widths_d: tuple[int, ...] = ()  # the discriminator's; the generator's where empty
    blocks: int = 1
    latent_dim: int = 64
    embedding_dim: int = 16
    norm_g: Norm = "none"
    norm_d: Norm = "none"
    sketch: int = 0  # groups a class whose coarse pictures the generator paints over, a power of two; 0: it starts bare
    resample_g: Resample = "smooth"
    finish_g: Resample | None = None  # the last upsampling, where it is another than `resample_g`
    resample_d: Resample = "strided"
    spectral_norm: bool = False
    unconditional_drop: float = 0.1
    conditions: tuple[str, ...] = ()  # columns beside the class; those that a cohort lacks are left out
    # objective
    loss: Loss = "r3"
    gamma: float = 0.2
    gamma_end: float | None = None
    penalty_every: int = 4
    clip: float = 0.0
    critic_steps: int = 1
    spectrum_weight: float = 0.0  # pull of the generator's mean spectrum to the training set's
    spectrum_target: Literal["all", "classes"] = "all"  # the set's mean, or the mean of a batch's own mix of classes
    sketch_weight: float = 0.0  # pull of each image to the coarse picture it was painted over
    match_spectrum: bool = False  # one filter after training that takes off what is left
    # optimiser
    optimiser: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    learning_rate_end: float | None = None
    beta1: float = 0.5
    beta2: float = 0.99
    batch: int = 32
    accumulate: int = 1  # parts in which a batch is played where memory is short; the weights are the same
    ema_half_life_kimg: float = 20.0
    # augmentation inside the discriminator's path
    augment_p: float = 0.3
    augment_shift: float = 0.06
    augment_zoom: float = 0.05
    augment_gain: float = 0.05
    augment_bias: float = 0.05
    augment_flip: bool = False
    # the run
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    tick_kimg: float = 8.0
    retreats: int = 3
    patience_kimg: float = 0.0  # end once a judge's distance has not fallen for so long, and keep its best; 0: never
    privacy: DP | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot train, with the number that is wrong."""
        doublings = log2(self.size_px / _BASE_PX) if self.size_px >= 2 * _BASE_PX else 0.5
        dense = self.backbone == "dense"
        self._require(doublings.is_integer(), f"size_px must be 4 times a power of two, not {self.size_px}")
        for widths in (self.widths, self.widths_d or self.widths):
            fits = dense or len(widths) in (doublings, doublings + 1)
            self._require(fits, f"{self.size_px} px need {doublings:.0f} or {doublings + 1:.0f} widths")
        residual = self.backbone != "residual" or len(self.widths) == doublings + 1
        self._require(residual, "the residual backbone needs a width for every resolution, the image's included")
        self._require(self.total_kimg > 0, "total_kimg must be positive")
        self._require(0 <= self.augment_p < 1, "augment_p must lie in [0, 1): at 1 augmentations leak into images")
        self._require(self.dims in (2, 3), f"images have 2 or 3 dimensions, not {self.dims}")
        whole = self.dims == 2 or self.size_px <= _MOST_VOXELS  # noqa: PLR2004 - flat images
        self._require(whole, f"volumes are trained whole up to {_MOST_VOXELS} voxels a side, not {self.size_px}")
        self._require(not dense or self.dims == 2, "the dense generator makes flat images only")  # noqa: PLR2004
        parts = self.accumulate >= 1 and self.batch % self.accumulate == 0
        self._require(parts, f"a batch of {self.batch} has no {self.accumulate} equal parts")
        apart = self.accumulate == 1 or "batch" not in {self.norm_g, self.norm_d}
        self._require(apart, "batch norm looks at the whole batch: accumulate with norm_g and norm_d `none` only")
        patient = self.patience_kimg == 0 or self.patience_kimg >= self.tick_kimg
        self._require(patient, f"patience_kimg must be 0 or at least a tick of {self.tick_kimg:g}")
        read = self.backbone == "dcgan" and len(self.widths) >= _SKETCH_WIDTHS
        self._require(
            read or not self.sketch, f"a sketch needs the dcgan backbone and a width for {_SKETCH_PX} px: set it to 0"
        )
        halved = 0 <= self.sketch < self.latent_dim and self.sketch & (self.sketch - 1) == 0
        self._require(halved, f"a sketch has 1, 2, 4, ... groups a class, not {self.sketch}")
        pulls = all(isfinite(weight) and weight >= 0 for weight in (self.spectrum_weight, self.sketch_weight))
        self._require(pulls, "spectrum_weight and sketch_weight are finite and not negative")
        self._require(not self.sketch_weight or self.sketch > 0, "sketch_weight needs a sketch")
        self._require(self.threads >= 1, "at least one thread is needed")
        self._require(min(self.penalty_every, self.critic_steps) >= 1, "penalty_every and critic_steps start at 1")
        if self.privacy is not None:
            self._require_private()

    def _require_private(self) -> None:
        """What per-sample gradients and the proof of the guarantee ask of a configuration."""
        plain = self.norm_d == "none" and not self.spectral_norm
        self._require(
            plain, "privacy needs a discriminator that looks at one image at a time: no norm, no spectral norm"
        )
        single = self.loss in {"gan-ns", "gan-minimax", "hinge"}
        self._require(single, "privacy needs a loss that judges one image by its sign: gan-ns, gan-minimax or hinge")
        exact = self.precision == "fp32" and self.device == "cpu"
        self._require(exact, "privacy needs precision fp32 on a CPU")
        unaided = not self.conditions and self.augment_p == 0 and self.critic_steps == 1 and self.clip == 0
        self._require(unaided, "privacy goes without conditions beside the class, augmentation and clipped weights")
        self._require(self.dims == 2, "privacy is for flat images")  # noqa: PLR2004
        self._require(not self.patience_kimg, "privacy goes without patience: a judge compares with unnoised images")
        unseen = not self.spectrum_weight and not self.match_spectrum and not self.sketch and self.accumulate == 1
        self._require(
            unseen,
            "privacy goes without spectrum_weight, match_spectrum, sketch (real statistics bear no noise) and parts",
        )

    @staticmethod
    def _require(condition: bool, message: str) -> None:
        if not condition:
            raise InvalidRequest(message)

    @property
    def total_steps(self) -> int:
        """Generator steps of the run."""
        return max(1, round(self.total_kimg * 1000 / self.batch))

    @property
    def tick_steps(self) -> int:
        """Generator steps between two ticks."""
        return max(1, round(self.tick_kimg * 1000 / self.batch))

    @property
    def discriminator_widths(self) -> tuple[int, ...]:
        """Channels of the discriminator from 4 px upward."""
        return self.widths_d or self.widths

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the canonical JSON of every field and of `CODE_VERSION`."""
        value = {"code_version": CODE_VERSION, **asdict(self)}
        if self.privacy is None:
            del value["privacy"]  # models from before there was a choice keep their names
        value["sketch"] = int(value["sketch"])  # `true` was one group, of other statistics: it has another name now
        for name, plain in _LATER.items():
            if value[name] == plain:
                del value[name]  # likewise
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrainConfig:
        """Rebuild from `asdict`; `InvalidRequest` on a field that this version does not know."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise InvalidRequest(f"the configuration has {len(unknown)} field(s) of another version of medgan")
        given = dict(value)
        for name in ("widths", "widths_d", "conditions"):
            given[name] = tuple(given.get(name, ()))
        if given.get("privacy") is not None:
            given["privacy"] = DP(**given["privacy"])
        return cls(**given)
