"""A publication that dies, or whose disk refuses, at its k-th write, fsync, rename, chmod or new folder.

Runs in a child that was forked before any thread existed, so that `os._exit` is what kill -9 is.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgan.errors import StoreUnavailable
from medgan.records import ClearedCohort, ReleaseRequest
from medgan.release import publish
from medgan.settings import Zones

KILLED, REFUSED = 9, 10
_CALLS = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir"), (os, "chmod"), (io, "open"))


@contextmanager
def counted(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act(n)` before the n-th change of the file system within the block."""
    count = 0
    originals = [(home, name, getattr(home, name)) for home, name in _CALLS]

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
            if name != "open" or (isinstance(mode, str) and set(mode) & set("wax+")):
                count += 1
                act(count)
            return original(*args, **kwargs)

        return call

    try:
        for home, name, original in originals:
            setattr(home, name, wrap(name, original))
        yield
    finally:
        for home, name, original in originals:
            setattr(home, name, original)


def steps(cleared: ClearedCohort, request: ReleaseRequest, workspace: Path) -> int:
    """How many changes of the file system one publication makes."""
    seen = 0

    def note(number: int) -> None:
        nonlocal seen
        seen = number

    with counted(note):
        publish.publish(cleared, request, zones=Zones.under(workspace))
    return seen


def publish_until(cleared: ClearedCohort, request: ReleaseRequest, workspace: Path, step: int, kill: bool) -> None:
    """Publish; at change number `step` die at once, or let that one change fail as on a full disk."""

    def fault(number: int) -> None:
        if number == step and kill:
            os._exit(KILLED)
        if number == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with counted(fault):
        try:
            publish.publish(cleared, request, zones=Zones.under(workspace))
        except StoreUnavailable:
            os._exit(REFUSED)
