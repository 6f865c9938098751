"""One run on several processes: every process plays its share of the same global batch.

All processes draw the whole batch's randomness and keep their rows, and gradients are averaged before each move, so
the run follows the one-process run up to the rounding of sums. Gradients are reduced by hand and not by hooks,
because R1 differentiates twice through the network that a hook would see only once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this is; (0, 1) alone."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a global batch."""
        return rows if self.size == 1 else rows.chunk(self.size)[self.rank]

    def average_(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their mean over processes, in one message."""
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float) -> float:
        """Mean of a number over processes; not finite when one is not."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(box)
        return float(box) / self.size

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


@contextmanager
def joined(*, init_method: str = "env://", timeout_seconds: int = 600) -> Iterator[World]:
    """The world torchrun describes in RANK and WORLD_SIZE (gloo), or this process alone."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    dist.init_process_group(
        "gloo", init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_seconds)
    )
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()
