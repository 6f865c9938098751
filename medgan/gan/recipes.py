"""Named recipes, and every historical system as a configuration.

A recipe is a function without arguments; a system is a function of the image size, so that systems can be compared on
one training set at equal cost. Numbers without a source were swept here: see docs/adr on the CPU recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log2
from typing import Literal

import torch

from medgan.errors import InvalidRequest
from medgan.gan.config import DP, TrainConfig

_PRIVATE_BATCH = 128
"""Patients a step under differential privacy: noise is added once a step, so few large steps hear more signal."""
_SMALL_PX, _LEAST_PX = 32, 16
PERSON = ("sex", "age_years")
"""Columns that every recipe conditions on where a cohort has them."""


def fast_precision(device: str = "cpu") -> Literal["fp32", "bf16"]:
    """`bf16` where the processor multiplies it natively: there it is worth 1.3 to 2.8x, elsewhere it costs."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"  # noqa: SLF001


def xray_32_cpu() -> TrainConfig:
    """Class-conditional radiographs at 32 px in some 150 seconds of one core, from a sketch of each class."""
    return TrainConfig(
        recipe="xray_32_cpu",
        size_px=32,
        total_kimg=110.0,
        norm_g="batch",
        gamma=0.1,
        learning_rate=1e-3,
        learning_rate_end=1e-4,
        precision=fast_precision(),
        conditions=PERSON,
        spectrum_weight=1.0,
        spectrum_target="classes",
        sketch=2,
        sketch_weight=20.0,
        match_spectrum=True,
    )


def hands_64_cpu() -> TrainConfig:
    """Six classes of small radiographs and slices (MedNIST) at 64 px in five minutes of one core."""
    return replace(r3_dcgan(64), recipe="hands_64_cpu", total_kimg=90.0)


def mr_brain_64_cpu() -> TrainConfig:
    """MR slices at 64 px on a CPU, an hour of one core; brains may be mirrored where laterality is not labelled."""
    return replace(r3_dcgan(64), recipe="mr_brain_64_cpu", total_kimg=500.0, augment_flip=True)


def mr_volume_32_cpu() -> TrainConfig:
    """MR volumes of 32 voxels a side on a CPU, some hours of one core: the flat recipe's blocks in three dimensions."""
    bare = replace(r3_dcgan(32), sketch=0, sketch_weight=0.0, gamma=0.05, batch=32)
    return replace(bare, recipe="mr_volume_32_cpu", dims=3, widths=(64, 32, 16), total_kimg=200.0)


def ct_volume_64_gpu() -> TrainConfig:
    """CT volumes of 64 voxels a side, whole, on one GPU; each batch in four parts."""
    config = _residual("ct_volume_64_gpu", 64, (256, 128, 64, 32, 16), total_kimg=2_000.0)
    return replace(config, dims=3, batch=32, accumulate=4)


def ct_chest_128_gpu() -> TrainConfig:
    """CT slices at 128 px on one GPU: `small-128` of the design page."""
    return _residual("ct_chest_128_gpu", 128, (384, 384, 256, 128, 64, 32), total_kimg=5_000.0)


def xray_256_gpu() -> TrainConfig:
    """Radiographs at 256 px on one GPU: `base-256` of the design page."""
    return replace(
        _residual("xray_256_gpu", 256, (512, 512, 512, 384, 192, 96, 48), total_kimg=10_000.0), blocks=2, batch=128
    )


def _residual(recipe: str, size_px: int, widths: tuple[int, ...], *, total_kimg: float) -> TrainConfig:
    """The residual pair with the schedules of the design page: gamma about 2 (res/64)^3.1, ending at a tenth."""
    gamma = 2 * (size_px / 64) ** 3.1
    return TrainConfig(
        recipe=recipe,
        size_px=size_px,
        total_kimg=total_kimg,
        backbone="residual",
        widths=widths,
        gamma=gamma,
        gamma_end=gamma / 10,
        penalty_every=1,
        learning_rate=2e-4,
        learning_rate_end=5e-5,
        beta1=0.0,
        ema_half_life_kimg=500.0,
        batch=64,
        tick_kimg=100.0,
        device="cuda",
        precision="bf16",
        conditions=PERSON,
        match_spectrum=True,
    )


def r3_dcgan(size_px: int) -> TrainConfig:
    """This house's default on a CPU: the pairing loss with lazy R1 + R2 on a DCGAN ladder, from a sketch of each class.

    The penalty grows with the size as images do; beyond 32 px half as wide and twice as many steps.
    """
    large, sketched = size_px > _SMALL_PX, size_px >= _LEAST_PX
    gamma = 0.15 if sketched else 0.05
    ladder = _ladder(size_px, 16 if large else 24)
    stage = ladder[-1:] if size_px == _LEAST_PX else ()  # a sketch is read at 16 px, where this ladder ends
    return replace(
        xray_32_cpu(),
        recipe=f"r3_dcgan_{size_px}",
        size_px=size_px,
        widths=ladder + stage,
        widths_d=ladder if stage else (),
        batch=32 if size_px < _SMALL_PX else 16,
        learning_rate=2e-3 if large else 1e-3,
        gamma=0.1 * (size_px / _SMALL_PX) ** 3.1 if large else gamma,
        sketch=8 if sketched else 0,
        sketch_weight=(20.0 if large else 60.0) if sketched else 0.0,
    )


def r3_residual(size_px: int) -> TrainConfig:
    """The default of the GPU recipes, small: `nano-32` of the design page, a block a resolution."""
    widths = (128, 96, 64, 48, 32, 24)[: int(log2(size_px / 4)) + 1]
    config = _residual(f"r3_residual_{size_px}", size_px, widths, total_kimg=96.0)
    return replace(config, ema_half_life_kimg=20.0, batch=32, tick_kimg=8.0, device="cpu", precision="fp32")


def dcgan(size_px: int) -> TrainConfig:
    """Radford et al. 2016 as in pytorch/examples, classes by embedding: transposed convolutions, batch norm, z 100."""
    return TrainConfig(
        recipe=f"dcgan_{size_px}",
        size_px=size_px,
        total_kimg=96.0,
        widths=_ladder(size_px, 64),
        latent_dim=100,
        norm_g="batch",
        norm_d="batch",
        resample_g="strided",
        resample_d="strided",
        loss="gan-ns",
        gamma=0.0,
        learning_rate=2e-4,
        beta1=0.5,
        beta2=0.999,
        batch=64,
        augment_p=0.0,
        unconditional_drop=0.0,
    )


def gan_2014(size_px: int) -> TrainConfig:
    """The minimax game as first written down, on the DCGAN ladder: shows saturation."""
    return replace(dcgan(size_px), recipe=f"gan_2014_{size_px}", loss="gan-minimax")


def article(size_px: int) -> TrainConfig:
    """The founding article's dense generator against a DCGAN critic."""
    return replace(dcgan(size_px), recipe=f"article_{size_px}", backbone="dense")


def wgan_clip(size_px: int) -> TrainConfig:
    """Arjovsky et al. 2017, algorithm 1: clip 0.01, RMSprop 5e-5, 5 critic steps."""
    return replace(
        dcgan(size_px),
        recipe=f"wgan_clip_{size_px}",
        loss="wgan-clip",
        clip=0.01,
        optimiser="rmsprop",
        learning_rate=5e-5,
        critic_steps=5,
    )


def wgan_gp(size_px: int) -> TrainConfig:
    """Gulrajani et al. 2017: Adam 1e-4 (0, 0.9), 5 critic steps, no batch norm in the critic."""
    return replace(
        dcgan(size_px),
        recipe=f"wgan_gp_{size_px}",
        loss="wgan-gp",
        norm_d="none",
        learning_rate=1e-4,
        beta1=0.0,
        beta2=0.9,
        critic_steps=5,
    )


def hinge(size_px: int) -> TrainConfig:
    """Miyato et al. 2018: hinge loss with spectral normalisation of the critic."""
    return replace(dcgan(size_px), recipe=f"hinge_{size_px}", loss="hinge", norm_d="none", spectral_norm=True)


def _ladder(size_px: int, base: int) -> tuple[int, ...]:
    """Widths of a DCGAN: `base` before the image, twice as many a level below it."""
    levels = int(log2(size_px / 4))
    return tuple(base * 2 ** (levels - 1 - level) for level in range(levels))


SYSTEMS: dict[str, Callable[[int], TrainConfig]] = {
    system.__name__: system for system in (r3_dcgan, r3_residual, dcgan, gan_2014, article, wgan_clip, wgan_gp, hinge)
}
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        xray_32_cpu,
        hands_64_cpu,
        mr_brain_64_cpu,
        mr_volume_32_cpu,
        ct_volume_64_gpu,
        ct_chest_128_gpu,
        xray_256_gpu,
    )
}


def private(config: TrainConfig, privacy: DP) -> TrainConfig:
    """The recipe under differential privacy: its networks and latents, and a game that bears noise.

    The non-saturating game without penalty, a discriminator without normalisation, larger batches (Bie, Kamath and
    Zhang 2023, section 5).
    """
    return replace(
        config,
        privacy=privacy,
        spectrum_weight=0.0,  # real spectra bear no noise
        spectrum_target="all",  # asked for no more: its choice shall not make another training of the same one
        match_spectrum=False,
        sketch=0,
        sketch_weight=0.0,
        accumulate=1,
        loss="gan-ns",
        gamma=0.0,
        gamma_end=None,
        norm_d="none",
        spectral_norm=False,
        conditions=(),
        augment_p=0.0,
        critic_steps=1,
        clip=0.0,
        precision="fp32",
        device="cpu",
        beta1=0.5,
        beta2=0.999,
        learning_rate=5e-4,
        learning_rate_end=None,
        batch=max(config.batch, _PRIVATE_BATCH),
    )


def build(
    recipe: str,
    *,
    seed: int = 0,
    total_kimg: float | None = None,
    patience_kimg: float = 0.0,
    privacy: DP | None = None,
) -> TrainConfig:
    """The configuration behind a name with a request's overrides; `InvalidRequest` on an unknown name.

    A name is a recipe's, or a system's and a size: `dcgan_32`.
    """
    system, _, size = recipe.rpartition("_")
    if recipe in RECIPES:
        config = RECIPES[recipe]()
    elif system in SYSTEMS and size.isdigit():
        config = SYSTEMS[system](int(size))
    else:
        names = ", ".join([*sorted(RECIPES), *(f"{name}_<size>" for name in SYSTEMS)])
        raise InvalidRequest(f"there is no such recipe; choose one of {names}")
    total_kimg = config.total_kimg if total_kimg is None else total_kimg
    config = replace(config, seed=seed, total_kimg=total_kimg, patience_kimg=patience_kimg)
    return config if privacy is None else private(config, privacy)
