"""Is this machine ready for a night? Each check says what is wrong and what to do; none writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from medgan import cluster, keys
from medgan.errors import MedganError
from medgan.settings import Zones

_PINS = {"fastapi": (0, 151), "sqlalchemy": (2, 1), "zarr": (3, 2), "icechunk": (2, 0), "prefect": (3, 9)}
"""First version of each that is known not to work here (docs/adr/0005)."""
_FREE_BYTES = 10 * 1024**3

Finding = tuple[bool, str, str]
"""Whether all is well, what was looked at, and what was found or what to do."""


def examine(zones: Zones) -> Iterator[Finding]:
    """Run every check."""
    checks: dict[str, Callable[[Zones], str]] = {
        "versions": _versions,
        "pseudonym key": _key,
        "disk": _disk,
        "Dask": _dask,
        "GPU": _gpu,
        "Prefect": _prefect,
    }
    for what, check in checks.items():
        try:
            yield True, what, check(zones)
        except (MedganError, OSError, RuntimeError) as error:
            yield False, what, str(error)


def _versions(_zones: Zones) -> str:
    wrong = [
        f"{name} {version(name)} (needs < {'.'.join(map(str, limit))})"
        for name, limit in _PINS.items()
        if tuple(int(part) for part in version(name).split(".")[:2]) >= limit
    ]
    if wrong:
        raise RuntimeError(f"{', '.join(wrong)}: install with --constraint constraints.txt")
    return f"prefect {version('prefect')}, torch {version('torch')}, zarr {version('zarr')}"


def _key(zones: Zones) -> str:
    keys.load(zones.pseudonym_key)
    return "opens, and only its owner can read it"


def _disk(zones: Zones) -> str:
    free = shutil.disk_usage(_standing(zones.pseudonymised)).free
    if free < _FREE_BYTES:
        raise RuntimeError(f"{free / 1e9:.1f} GB free below the pseudonymised root: make room for at least 10 GB")
    return f"{free / 1e9:.0f} GB free"


def _standing(path: Path) -> Path:
    return path if path.exists() else _standing(path.parent)


def _dask(_zones: Zones) -> str:
    address = os.environ.get("MEDGAN_DASK_SCHEDULER")
    if not address:
        return f"an embedded cluster of {cluster.available_cores()} workers"
    with cluster.open_client(scheduler=address) as client:
        return f"{len(client.nthreads())} workers answer"  # type: ignore[no-untyped-call]


def _gpu(_zones: Zones) -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; recipes ending in _cpu will train here"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def _prefect(_zones: Zones) -> str:
    import httpx

    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return "a temporary server inside the workspace (PREFECT_API_URL is not set)"
    auth = os.environ.get("PREFECT_API_AUTH_STRING", "")
    credentials = (auth.partition(":")[0], auth.partition(":")[2]) if auth else None
    try:
        answer = httpx.post(f"{address}/deployments/count", json={}, auth=credentials, timeout=10)
    except httpx.HTTPError as error:
        raise RuntimeError(f"the server does not answer ({type(error).__name__}): check PREFECT_API_URL") from None
    if answer.status_code in {401, 403}:
        raise RuntimeError("the server refuses us: set PREFECT_API_AUTH_STRING")
    return f"the server answers and knows {answer.json()} deployments"
