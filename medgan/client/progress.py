"""A bar for what takes long, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from medgan.client.verify import Progress


@contextmanager
def shown(title: str, *, unit: Literal["bytes", "images"] = "bytes") -> Iterator[Progress | None]:
    """A function that moves a bar on standard error (done, total in `unit`); None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    counts = (
        (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TimeRemainingColumn())
    )
    with Bars(
        TextColumn("{task.description}"), BarColumn(), *counts, console=Console(stderr=True), transient=True
    ) as bars:
        task = bars.add_task(title)
        yield lambda done, total: bars.update(task, completed=done, total=total)
