"""The arithmetic a result depends on: thread count and deterministic kernels, set for a block and put back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

_kernels: Any = deterministic  # a module whose attributes are properties, which no checker sees


@contextmanager
def fixed(threads: int) -> Iterator[None]:
    """Run a block with `threads` intra-op threads and deterministic kernels only.

    New memory is not filled with NaN, which torch does in deterministic mode for kernels that read what nobody wrote:
    none of ours do, and at 64 px the filling costs 3 % of a training.
    """
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), _kernels.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without loading inductor
    _kernels.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        _kernels.fill_uninitialized_memory = before[2]
