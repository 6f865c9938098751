"""Where parallel work runs: an embedded Dask cluster, or a scheduler somebody else runs.

One intra-op thread a worker: with more, OpenMP's spinning costs up to a factor of five.
Functions given to the cluster live in importable modules of `medgan` and are safe to run twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medgan.errors import InvalidRequest, StoreUnavailable

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
_QUIET = {
    # Sampling every thread's stack a hundred times a second and ticking fifty times tell a person at a dashboard where
    # time goes. There is no dashboard, and on a busy machine they took more CPU time than drawing 64 px images did.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "5s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.system-monitor.gil.enabled": False,
    # what a cluster does beside its work, on every worker's core and the caller's: half of what Dask's own rhythm takes
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.client.scheduler-info-interval": "10s",
    "distributed.scheduler.active-memory-manager.start": False,
    # Dask has glibc hand back memory at every 64 KiB freed: each buffer of the network is then mapped and zeroed anew,
    # which more than doubled the CPU time of an image. These must stand in the environment before a worker starts.
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, "1")
    | {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 26)},
    # a block whose worker was killed is innocent of it: only one that ends ten workers is suspected
    "distributed.scheduler.allowed-failures": 10,
}
_CONNECT_SECONDS = 60
_WORKER_SECONDS = 120
"""Longer than a supervisor takes to start a scheduler or worker again on a loaded machine."""


def code(parts: tuple[str, ...]) -> str:
    """Hex SHA-256 over every file of these parts of medgan that decides what they do; a part is a room or a file.

    A worker with another one does other work; nobody has to remember to raise a number. The files are read now: a
    module that tells what runs takes it while it is imported, because an upgrade changes files and no running process.
    """
    digest, root = hashlib.sha256(), Path(__file__).resolve().parent
    for part in (root / name for name in parts):
        below = part.rglob("*") if part.is_dir() else [part]
        for path in sorted(one for one in below if one.suffix in {".py", ".csv", ".txt", ".toml"}):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def available_cores() -> int:
    """Cores this process may use (affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0))


@contextmanager
def open_client(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Client]:
    """Yield a Dask client on `scheduler`, or on an embedded cluster of `workers` single-thread processes.

    `workers` defaults to the available cores. The embedded cluster opens no dashboard, binds to
    loopback only and is gone when the block ends.
    """
    import dask
    from distributed import Client

    _only_warnings("distributed")
    if scheduler is not None:
        with _scheduler_may_die(), _connected(Client, scheduler) as client:
            yield client
        return
    count = available_cores() if workers is None else workers
    if count < 1:
        message = f"at least one worker is needed, not {count}"
        raise InvalidRequest(message)
    with (
        dask.config.set(_QUIET),
        _local_cluster(count) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


def _local_cluster(count: int) -> LocalCluster:
    """The embedded cluster; `StoreUnavailable` when its processes do not come up."""
    from distributed import LocalCluster

    try:
        return LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # None would still open Dask's default HTTP port; any free one on loopback, without the dashboard.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            # a worker that is stopped amid a heartbeat prints a traceback as an ERROR; real failures are raised
            silence_logs=logging.CRITICAL,
            env=dict.fromkeys(_THREAD_VARIABLES, "1"),
        )
    except RuntimeError:
        message = "the workers of the embedded cluster could not be started: free memory or cores, then run again"
        raise StoreUnavailable(message) from None


def wait_for_workers(client: Client) -> None:
    """Return once there is a worker; `StoreUnavailable` after two minutes without."""
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except (OSError, TimeoutError):
        message = (
            f"the Dask scheduler has no worker, {_WORKER_SECONDS} s after it was asked: start some, then run again"
        )
        raise StoreUnavailable(message) from None


def workers_with(client: Client, resources: Mapping[str, float]) -> list[str]:
    """Addresses of the workers that declare all of `resources`.

    Raises:
        InvalidRequest: there is none. Dask itself would wait for ever, and say nothing.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    able = [
        address
        for address, worker in workers.items()
        if all(worker["resources"].get(name, 0) >= amount for name, amount in resources.items())
    ]
    if not able:
        asked = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
        declared = sorted(
            {f"{name}={amount:g}" for worker in workers.values() for name, amount in worker["resources"].items()}
        )
        message = (
            f"none of the {len(workers)} workers declares {asked} (they declare {', '.join(declared) or 'nothing'}): "
            "start workers with --resources, or ask for less"
        )
        raise InvalidRequest(message)
    return able


def _connected(client: type[Client], scheduler: str) -> Client:
    """A client of a running scheduler that has a worker. Certificates come from Dask's own settings (DASK_*)."""
    try:
        connected = client(scheduler, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError):
        message = f"the Dask scheduler did not answer within {_CONNECT_SECONDS} s: check its address and certificates"
        raise StoreUnavailable(message) from None
    try:
        wait_for_workers(connected)  # without one, everything submitted would wait for ever and in silence
    except StoreUnavailable:
        connected.close()  # type: ignore[no-untyped-call]
        raise
    return connected


@contextmanager
def _scheduler_may_die() -> Iterator[None]:
    """A scheduler that goes away cancels what it was given: that is said as something to try again."""
    try:
        yield
    except (futures.CancelledError, asyncio.CancelledError, ConnectionError):
        message = "the Dask scheduler went away in the middle of the work: run again to resume"
        raise StoreUnavailable(message) from None
    except OSError as error:
        from distributed.comm.core import CommClosedError

        if not isinstance(error, CommClosedError):
            raise
        raise StoreUnavailable("the Dask scheduler hung up in the middle of the work: run again to resume") from None


def _only_warnings(library: str) -> None:
    """Keep a library's chatter out of the night's log; each of its loggers has a level of its own."""
    for name in logging.root.manager.loggerDict:
        if name == library or name.startswith(f"{library}."):
            logging.getLogger(name).setLevel(logging.WARNING)
