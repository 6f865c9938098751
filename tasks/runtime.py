"""What every task shares: its name and retry policy, the scrubbed border, progress, artifacts.

The border is scrubbed here, once: an exception that medgan raised on purpose passes (its message
holds no identifier, see `medgan.errors`); any other leaves its type and place behind and nothing
else, because Prefect keeps messages and tracebacks in its database.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medgan.errors import InvalidRequest, MedganError, StoreUnavailable, of_system
from medgan.settings import Zones
from tasks import page

P = ParamSpec("P")
R = TypeVar("R")

_PROGRESS_SECONDS = 10.0
"""Least time between two writes of one progress artifact: a write costs a request to the server."""

_PAUSES_SECONDS = (5.0, 30.0, 60.0, 300.0, 600.0, 900.0)
"""Before each further try: a server that restarts takes a minute, another committer half an hour."""


_MOST_TRIES = 5
_DISK_REFUSES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM}
)


class UnexpectedFailure(MedganError):
    """Something broke that medgan did not foresee; only its type and place are told."""

    kind = "unexpected"


def step(
    name: str, *, retries: int = 2, timeout_seconds: float | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a verb a Prefect task: retried when its error says so, never cached, scrubbed at the border.

    `NO_CACHE` because our verbs are keyed by content themselves, and hashing inputs costs 70 ms a task.
    """

    def decorate(verb: Callable[P, R]) -> Callable[P, R]:
        return task(
            name=name,
            retries=retries,
            retry_delay_seconds=list(_PAUSES_SECONDS[:retries]),
            retry_condition_fn=_is_retryable,
            timeout_seconds=timeout_seconds,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(scrubbed(verb))

    return decorate


_PANICS = "pyo3_runtime"
"""Where a panic of a library in Rust comes from: it is no `Exception`, and quotes paths like one."""


def scrubbed(verb: Callable[P, R]) -> Callable[P, R]:
    """Let `MedganError` pass, tell of a disk that refuses, replace every other exception by its type and place."""

    @functools.wraps(verb)
    def border(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except BaseException as caught:  # the border's whole purpose
            if not isinstance(caught, Exception) and type(caught).__module__ != _PANICS:
                raise  # a run that is cancelled or stopped
            failure = _without_identifiers(caught)
        # Raised outside of the handler, so that the original is not carried along as context.
        raise failure

    return border


def _without_identifiers(caught: BaseException) -> MedganError:
    if isinstance(caught, MedganError):
        caught.__cause__ = caught.__context__ = None
        return caught.with_traceback(None)
    if isinstance(caught, OSError) and caught.errno in _DISK_REFUSES:
        return of_system(caught)
    trace, place = caught.__traceback__, "an unknown place"
    while trace is not None:
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return UnexpectedFailure(f"{type(caught).__name__} at {place}; run the step alone to see more")


def _is_retryable(_task: Any, _run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, MedganError) and error.retryable


class _ForeseenWithoutTraceback(logging.Filter):
    """An error that says what happened and what to do needs no traceback of Prefect's engine under it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the traceback of a `MedganError`; the record itself always passes."""
        if record.exc_info and isinstance(record.exc_info[1], MedganError):
            record.exc_info = record.exc_text = None
        return True


class _WithoutParameters(logging.Filter):
    """Prefect logs parameters that it refuses, values and all: an original id typed by mistake would stand there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop that line; the refusal is told without the value."""
        return not record.getMessage().startswith("Parameter validation failed")


logging.getLogger("prefect.flows").addFilter(_WithoutParameters())
logging.getLogger("great_expectations").setLevel(logging.WARNING)
for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_ForeseenWithoutTraceback())


def give_up_when_it_dies_too_often() -> None:
    """End a run that an automation (`a crashed run is resumed`) has started again and again: a person is needed.

    Raises `StoreUnavailable`, which leaves everything as it is for the next run.
    """
    if (flow_run.run_count or 0) > _MOST_TRIES:
        raise StoreUnavailable(
            f"the process of this run died {_MOST_TRIES} times: give it more memory or disk, then start a new run, "
            "which goes on where it was"
        )


def zones() -> Zones:
    """The roots of this deployment: below `MEDGAN_WORKSPACE`. A path is never a parameter of a flow."""
    workspace = os.environ.get("MEDGAN_WORKSPACE")
    if not workspace:
        raise InvalidRequest("MEDGAN_WORKSPACE is not set: it names the folder that holds the zones")
    return Zones.under(workspace)


def workers() -> int | None:
    """Dask workers of the embedded cluster (`MEDGAN_WORKERS`), or None for one a core."""
    count = os.environ.get("MEDGAN_WORKERS")
    return int(count) if count else None


def scheduler() -> str | None:
    """Address of a Dask scheduler (`MEDGAN_DASK_SCHEDULER`), or None for the embedded cluster."""
    return os.environ.get("MEDGAN_DASK_SCHEDULER") or None


def resources() -> dict[str, float] | None:
    """What a block needs of its Dask worker (`MEDGAN_DASK_RESOURCES`, such as `GPU=1`), or None for nothing."""
    given = os.environ.get("MEDGAN_DASK_RESOURCES")
    try:
        return (
            {name: float(amount) for name, amount in (part.split("=") for part in given.split(","))} if given else None
        )
    except ValueError:
        raise InvalidRequest("MEDGAN_DASK_RESOURCES reads NAME=AMOUNT, joined by commas: GPU=1") from None


def log(message: str, **numbers: float | str) -> None:
    """One structured line in the run's log: what was done, with counts."""
    get_run_logger().info("%s %s", message, " ".join(f"{key}={value}" for key, value in numbers.items()))


class Report(Protocol):
    """Moves a bar to `done` of `total`, with a note behind its name."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Move it."""


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Yield `(done, total, note="") -> None` that moves a bar on a terminal and an artifact in Prefect's UI.

    A total of 0 means that it is not known yet: the bar pulses and the artifact waits. A note stands behind the name.
    """
    shown = page.Bar(what)
    last = time.monotonic()
    with _bar() as bar:
        row = bar.add_task(what, total=None)

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            described = f"{what}: {note}" if note else what
            bar.update(row, completed=done, total=total or None, description=described)
            if total and time.monotonic() - last >= _PROGRESS_SECONDS:
                last = time.monotonic()
                shown.move(100.0 * done / total, described)

        yield report
    shown.finish()


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
