"""Is this machine ready for a night? Each check says what is wrong and what to do; none writes to a store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from medgan import cluster, keys, night
from medgan.archive import sources
from medgan.client.index import moment
from medgan.collection import store
from medgan.errors import MedganError
from medgan.settings import Zones
from tasks.events import REFUSALS, Server
from tasks.metrics import collection_names, dataset_names, published_index

_PINS = {"fastapi": (0, 151), "sqlalchemy": (2, 1), "zarr": (3, 2), "icechunk": (2, 0), "prefect": (3, 9)}
"""First version of each that is known not to work here (docs/adr/0005)."""
_FREE_BYTES = 10 * 1024**3
_EXPIRY_DAYS = 7
_PULSE_SECONDS = 60
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Finding = tuple[bool, str, str]
"""Whether all is well, what was looked at, and what was found or what to do."""


def examine(zones: Zones) -> Iterator[Finding]:
    """Run every check."""
    checks: dict[str, Callable[[Zones], str]] = {
        "versions": _versions,
        "pseudonym key": _key,
        "signing key": _signing,
        "zones": _zones,
        "disk": _disk,
        "sources": _sources,
        "collections": _collections,
        "locks": _locks,
        "nights": _nights,
        "registry": _registry,
        "Dask": _dask,
        "GPU": _gpu,
        "Prefect": _prefect,
        "events": _events,
        "deployments": _deployments,
        "workers": _workers,
    }
    for what, check in checks.items():
        try:
            yield True, what, check(zones)
        except (MedganError, OSError, RuntimeError, ValueError) as error:
            said = str(error) if isinstance(error, MedganError | RuntimeError) else type(error).__name__
            yield False, what, said


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


def _signing(zones: Zones) -> str:
    if not zones.signing_key.exists():
        return "none yet; the first night makes one"
    if zones.signing_key.stat().st_mode & 0o077:
        raise RuntimeError("others can read the signing key: chmod 600, and rotate it (docs/operate.md)")
    return "only its owner can read it"


def _zones(zones: Zones) -> str:
    """Every zone that stands can be written to, and the registry's readers get no further than the registry."""
    roots = {name: getattr(zones, name) for name in ("identified", "pseudonymised", "synthetic", "published", "keys")}
    closed = [name for name, root in roots.items() if not os.access(_standing(root), os.W_OK | os.X_OK)]
    if closed:
        raise RuntimeError(f"cannot write to {', '.join(closed)}: give this account the zones that it works in")
    if zones.keys.exists() and zones.keys.stat().st_mode & 0o077:
        raise RuntimeError("others can look into the key folder: chmod 700")
    return f"{sum(root.exists() for root in roots.values())} of {len(roots)} stand, all writable"


def _disk(zones: Zones) -> str:
    free = {name: shutil.disk_usage(_standing(getattr(zones, name))).free for name in ("pseudonymised", "published")}
    least = min(free, key=lambda name: free[name])
    if free[least] < _FREE_BYTES:
        raise RuntimeError(f"{free[least] / 1e9:.1f} GB free below the {least} root: make room for at least 10 GB")
    return f"{free[least] / 1e9:.0f} GB free"


def _sources(zones: Zones) -> str:
    """Each registered source is still where it was."""
    names = sources.registered(zones)
    if not names:
        raise RuntimeError("none is registered: medgan source add NAME PATH --workspace DIR")
    keyring = keys.load(zones.pseudonym_key)
    places = {name: sources.place_of(name, zones=zones, keyring=keyring) for name in names}
    gone = [name for name, place in places.items() if not place.is_remote and not place.path.exists()]
    if gone:
        raise RuntimeError(f"{', '.join(gone)}: not there any more; is the archive mounted on this machine?")
    remote = sum(place.is_remote for place in places.values())
    return f"{len(names)} registered, all there" + (f" ({remote} remote, not visited)" if remote else "")


def _collections(zones: Zones) -> str:
    heads = [store.head(name, zones=zones) for name in collection_names(zones)]
    if not heads:
        return "none yet; the first ingest makes one"
    return ", ".join(f"{head.collection}: {head.instances:,} instances" for head in heads)


def _locks(zones: Zones) -> str:
    """File locks hold here: a second holder is refused. They vanish with their process, so none is ever stale."""
    import fcntl

    root = _standing(zones.pseudonymised)
    with (root / f".doctor-{os.getpid()}").open("w") as one, Path(one.name).open("r+") as two:
        try:
            fcntl.flock(one, fcntl.LOCK_EX)
            try:
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "hold: one committer a collection"
        finally:
            Path(one.name).unlink()
    raise RuntimeError("this file system does not keep locks: two ingests could write at once; use another one")


def _nights(zones: Zones) -> str:
    told = []
    for name in dataset_names(zones):
        if entries := night.history(name, zones=zones):
            last = entries[-1]
            told.append(f"{name} {last.night.number} {last.outcome or 'open: the next run resumes it'}")
    return ", ".join(told) or "none yet"


def _registry(zones: Zones) -> str:
    index = published_index(zones)
    if index is None:
        nights = [entry for name in dataset_names(zones) for entry in night.history(name, zones=zones)]
        if any(entry.outcome == "published" for entry in nights):
            raise RuntimeError(
                "nights have published, but the registry holds no index: is it the one they published to?"
            )
        return "nothing is published yet"
    expires = moment(index.expires)
    if expires < datetime.now(UTC) + timedelta(days=_EXPIRY_DAYS):
        raise RuntimeError(f"the index expires on {expires:%Y-%m-%d}, then clients refuse it: publish, or re-sign it")
    return f"the index is good until {expires:%Y-%m-%d}"


def _standing(path: Path) -> Path:
    return path if path.exists() else _standing(path.parent)


def _dask(_zones: Zones) -> str:
    address = os.environ.get("MEDGAN_DASK_SCHEDULER")
    if not address:
        return f"an embedded cluster of {cluster.available_cores()} workers"
    parts = urlsplit(address)
    if parts.scheme != "tls" and parts.hostname not in _LOOPBACK:
        raise RuntimeError("the scheduler is reached without TLS: make certificates (infra/dask/certificates.sh)")
    with cluster.open_client(scheduler=address) as client:
        return f"{len(client.nthreads())} workers answer"  # type: ignore[no-untyped-call]


def _gpu(_zones: Zones) -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; recipes ending in _cpu will train here"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def _prefect(_zones: Zones) -> str:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return "a temporary server inside the workspace (PREFECT_API_URL is not set)"
    parts = urlsplit(address)
    if parts.scheme != "https" and not stays_inside(parts.hostname or ""):
        raise RuntimeError("the password would cross the network in the clear: put TLS before the server (https)")
    with _plainly():
        if Server.of_the_environment().answers_anybody():
            raise RuntimeError("the server answers anybody: set PREFECT_SERVER_API_AUTH_STRING there")
    return f"the server answers us and nobody else; {_ask('/flow_runs/count', {})} runs"


def _events(_zones: Zones) -> str:
    """What is told to the server is acted on: arrivals, dead runs, notices all hang on that."""
    if not os.environ.get("PREFECT_API_URL"):
        return "none without a server"
    server = Server.of_the_environment()
    with _plainly():
        if not server.knows_the_pulse():
            raise RuntimeError("nobody would notice a deaf server: python -m flows deploy --workspace DIR")
        heard = server.acts_on_a_pulse(within_seconds=_PULSE_SECONDS)
    if not heard:
        raise RuntimeError("the server takes events and acts on none: restart it, by python -m flows server")
    return "are acted on"


def stays_inside(host: str) -> bool:
    """Whether a connection to this host leaves neither this machine nor the containers' own network."""
    is_name_of_a_network = "." not in host and ":" not in host  # with a colon it is an IPv6 address
    return host in _LOOPBACK or is_name_of_a_network or host.endswith(".svc.cluster.local")


def _deployments(_zones: Zones) -> str:
    """Deployments exist, and the server really schedules the nights (docs/adr/0005)."""
    if not os.environ.get("PREFECT_API_URL"):
        return "none without a server"
    plan = yaml.safe_load((Path(__file__).parents[1] / "deployments/prefect.yaml").read_text())
    there = [deployment["name"] for deployment in _ask("/deployments/filter", {})]
    known = {"nightly", *there}  # nights are named by their site
    if missing := {entry["name"] for entry in plan["deployments"]} - known:
        raise RuntimeError(f"{', '.join(sorted(missing))} missing: python -m flows deploy --workspace DIR")
    scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "flows": {"name": {"any_": ["nightly"]}}}
    runs = _ask("/flow_runs/count", scheduled)
    if not runs:
        raise RuntimeError("no night is scheduled: is a schedule active? Was sqlalchemy upgraded? (docs/adr/0005)")
    return f"{len(there)}; {runs} nights are scheduled"


def _workers(_zones: Zones) -> str:
    """Each pool that a deployment runs on has a worker that was heard of lately."""
    if not os.environ.get("PREFECT_API_URL"):
        return "none without a server"
    pools = _ask("/work_pools/filter", {})
    idle = [pool["name"] for pool in pools if pool["name"].startswith("medgan") and pool.get("status") != "READY"]
    if "medgan" in idle or not pools:
        raise RuntimeError("no worker on the pool medgan: prefect worker start --pool medgan --type process")
    return "ready" + (f"; without a worker: {', '.join(idle)}" if idle else "")


def _ask(path: str, body: Any) -> Any:
    with _plainly():
        return Server.of_the_environment().ask(path, body)


@contextmanager
def _plainly() -> Iterator[None]:
    """What a server that does not answer us means for the person before it."""
    try:
        yield
    except httpx.HTTPStatusError as refusal:
        status = refusal.response.status_code
        if status in REFUSALS:
            raise RuntimeError("the server refuses us: set PREFECT_API_AUTH_STRING") from None
        raise RuntimeError(f"the server answers {status}: look at its log") from None
    except httpx.HTTPError as error:
        raise RuntimeError(f"the server does not answer ({type(error).__name__}): check PREFECT_API_URL") from None
