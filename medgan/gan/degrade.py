"""The degradations people ask to have undone, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from medgan.errors import InvalidRequest
from medgan.gan.holes import Holes
from medgan.gan.jpeg import Jpeg
from medgan.gan.kspace import KSpaceCrop
from medgan.gan.measurement import Degradation
from medgan.gan.noise import LowDose, RicianNoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task people ask for by name.

    `spectrum_share` of the spectrum's distance that pixels alone leave is what the critic's phase aims at: all that
    costs little PSNR (docs/adr/0093, 0099).
    """

    name: str
    title: str
    degradation: Degradation = field(repr=False)
    spectrum_share: float = 0.3


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="super-resolution-x2", title="MR super-resolution, twice", degradation=KSpaceCrop(factor=2)),
        Task(
            name="super-resolution-x4",
            title="MR super-resolution, four times",
            degradation=KSpaceCrop(factor=4),
            spectrum_share=0.6,
        ),
        Task(name="denoise", title="Rician noise removed", degradation=RicianNoise()),
        Task(name="low-dose", title="Low-dose CT noise removed", degradation=LowDose()),
        Task(name="inpaint", title="Defects filled in", degradation=Holes()),
        Task(name="compression", title="JPEG artefacts removed", degradation=Jpeg()),
    )
}


def task(name: str) -> Task:
    """A task by its name; `InvalidRequest` names those there are."""
    if name not in TASKS:
        raise InvalidRequest(f"there is no such task; choose one of {', '.join(TASKS)}")
    return TASKS[name]
