"""`medgan source add|list|check|fetch|receive`: archives by name, wherever they lie."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medgan.keys import Keyring
    from medgan.records import ArchiveRef
    from medgan.settings import Zones

app = typer.Typer(no_args_is_help=True)
source = typer.Typer(no_args_is_help=True, help="Registered archives: folders, drop folders, stores, PACS, DICOMweb.")
app.add_typer(source, name="source")

NameArgument = Annotated[str, typer.Argument(help="What the flows call it.")]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Folder that holds the zones.")]


@source.command("add")
def add(
    name: NameArgument,
    place: Annotated[str, typer.Argument(help="A path, an address, or - to read it from standard input.")],
    workspace: WorkspaceOption,
) -> None:
    """Register an archive under a name; its place is sealed, flows see the name only.

    A place is a folder, zip or tar, or an address: drop:/incoming, s3://bucket/prefix?endpoint=https://host,
    dicomweb+https://host/path?days=7, dicom://CALLED@host:port?calling=US&retrieve=get&days=7,
    receive://TITLE@host:port?from=SENDER. Hosts must be listed in MEDGAN_SOURCE_HOSTS (docs/ingest.md).
    """
    from medgan import keys
    from medgan.archive import place as places
    from medgan.archive import sources
    from medgan.settings import Zones

    judged = places.parse(sys.stdin.readline().strip() if place == "-" else place)
    sources.preflight(judged)
    zones = Zones.under(workspace)
    ref = sources.register(judged, zones=zones, keyring=keys.load(zones.pseudonym_key), name=name)
    typer.echo(ref.source)


@source.command("list")
def list_(workspace: WorkspaceOption) -> None:
    """Names of the registered archives, and what kind each is."""
    from medgan.archive import sources

    zones, keyring = _opened(workspace)
    for name in sources.registered(zones):
        typer.echo(f"{name:<32}{sources.place_of(name, zones=zones, keyring=keyring).kind}")


@source.command("check")
def check(name: NameArgument, workspace: WorkspaceOption) -> None:
    """Ask whether the archive answers and lets us in; nothing is fetched."""
    from medgan.archive import fetch

    zones, keyring = _opened(workspace)
    fetch.check(_ref(name), zones=zones, keyring=keyring)
    typer.echo("it answers")


@source.command("fetch")
def fetch(
    name: NameArgument,
    workspace: WorkspaceOption,
    again: Annotated[bool, typer.Option("--again", help="Also what was let go of since it landed.")] = False,
) -> None:
    """Bring what a remote archive has and we have not; the next scan finds it here. Safe to run again."""
    from medgan.archive import fetch as fetching

    zones, keyring = _opened(workspace)
    with _progress() as report:
        visit = fetching.fetch(_ref(name), zones=zones, keyring=keyring, on_progress=report, again=again)
    typer.echo(
        f"{visit.listed:,} listed, {visit.known:,} were here, {visit.arrived:,} arrived, "
        f"{visit.waiting:,} not delivered"
    )
    if visit.waiting:
        raise typer.Exit(3)


@source.command("receive")
def receive(name: NameArgument, workspace: WorkspaceOption) -> None:
    """Listen for C-STORE until told to stop (SIGTERM, Ctrl-C); prints once a minute how many arrived."""
    from medgan.archive import receiver, sources
    from medgan.archive.landing import Landing
    from medgan.errors import InvalidRequest

    zones, keyring = _opened(workspace)
    place = sources.place_of(name, zones=zones, keyring=keyring)
    if place.kind != "receiver":
        raise InvalidRequest("this source is no receiver: register receive://TITLE@host:port?from=SENDER")
    stop, arrived = _stopped(), _Count()
    landing = Landing(name, zones=zones, keyring=keyring)
    with receiver.serve(place, landing, on_arrival=arrived.one_more) as running:
        typer.echo(f"listening on port {running.port}, {len(landing):,} instances are here")
        while not stop.wait(60):
            typer.echo(f"{arrived.total:,} instances have arrived")
    typer.echo(f"{arrived.total:,} instances arrived")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; gives (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("fetch"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("fetch", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Count:
    """How many instances have arrived, counted by several threads."""

    def __init__(self) -> None:
        self.total, self._lock = 0, threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            self.total += 1


def _stopped() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _opened(workspace: Path) -> tuple[Zones, Keyring]:
    from medgan import keys
    from medgan.settings import Zones

    zones = Zones.under(workspace)
    return zones, keys.load(zones.pseudonym_key)


def _ref(name: str) -> ArchiveRef:
    from medgan.records import ArchiveRef

    return ArchiveRef(source=name)
