"""A training's numbers as TensorBoard scalars, where the extra `board` is installed; nothing where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medgan.gan.fit import OnTick, Tick

BOARD = "board"
_SCALARS = ("loss_d", "loss_g", "d_real", "d_fake", "spread", "distance", "kimg_per_second", "retreats")


def available() -> bool:
    """Whether the extra is installed."""
    return find_spec("tensorboard") is not None


def scalars(folder: Path) -> OnTick:
    """A callback that writes each tick's scalars to `folder/board`, against images shown.

    A run that goes on takes back what lies beyond the place it goes on from.
    """
    from torch.utils.tensorboard import SummaryWriter

    opened: list[SummaryWriter] = []

    def write(tick: Tick) -> None:
        shown = round(tick.kimg * 1000)
        if not opened:
            opened.append(SummaryWriter(str(folder / BOARD), purge_step=shown))
        for name in _SCALARS:
            value = asdict(tick)[name]
            if value is not None:
                opened[0].add_scalar(name, value, shown)
        opened[0].flush()

    return write


def beside(on_tick: OnTick | None, folder: Path) -> OnTick | None:
    """`on_tick`, and the scalars of `folder` where the extra is installed."""
    return both(on_tick, scalars(folder)) if available() else on_tick


def both(*callbacks: Callable[[Tick], None] | None) -> OnTick:
    """One callback that calls each that is given."""

    def call(tick: Tick) -> None:
        for callback in callbacks:
            if callback:
                callback(tick)

    return call
