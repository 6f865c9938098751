"""`medgan collection log|show|tag|diff|erase|expire|prune|follow`: the states of a collection, and forgetting."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medgan.records import CollectionSnapshot
    from medgan.settings import Zones

app = typer.Typer(no_args_is_help=True)
collection = typer.Typer(no_args_is_help=True, help="States of a collection; forgetting a patient.")
app.add_typer(collection, name="collection")

NameArgument = Annotated[str, typer.Argument(help="Name of the collection, for example main.")]
StateArgument = Annotated[str, typer.Argument(help="A snapshot id, a tag, or head.")]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Folder that holds the zones.")]
_CENTURY_DAYS = 36_500


@collection.command()
def log(name: NameArgument, workspace: WorkspaceOption) -> None:
    """Every commit, newest first: id, time, instances, patients, tags, message."""
    from medgan.collection import store

    for commit in store.log(name, zones=_zones(workspace)):
        state = commit.snapshot
        tags = f" [{', '.join(commit.tags)}]" if commit.tags else ""
        typer.echo(
            f"{state.snapshot_id}  {commit.written_at:%Y-%m-%d %H:%M}  {state.instances:>9,} instances  "
            f"{state.patients:>8,} patients{tags}  {commit.message}"
        )


@collection.command()
def show(name: NameArgument, workspace: WorkspaceOption, state: StateArgument = "head") -> None:
    """Counts of one state: by modality, pack and label, and of masks by structure."""
    from medgan.collection import read

    zones = _zones(workspace)
    snapshot = _state(name, state, zones)
    table = read.table(snapshot, zones=zones)
    typer.echo(f"{name} {snapshot.snapshot_id}  table {snapshot.table_sha256}")
    levels = ("instances", "series", "studies", "patients")
    typer.echo("  " + ", ".join(f"{getattr(snapshot, level):,} {level}" for level in levels))
    for column in ("modality", "pack", *(column for column in table.columns if column.startswith("label_"))):
        for value, count in table[column].value_counts().sort_index().items():
            typer.echo(f"  {column:<18}{value or '(none)':<24}{count:>10,} frames")
    for structure, count in read.masks(table).items():
        typer.echo(f"  {'masks of':<18}{structure:<24}{count:>10,} images")


@collection.command()
def tag(name: NameArgument, state: StateArgument, label: str, workspace: WorkspaceOption) -> None:
    """Name a state for ever: a tag is never moved and never used again."""
    from medgan.collection import store

    zones = _zones(workspace)
    snapshot = _state(name, state, zones)
    store.tag(snapshot, label, zones=zones)
    typer.echo(f"{label} is {snapshot.snapshot_id}")


@collection.command()
def diff(name: NameArgument, before: StateArgument, after: StateArgument, workspace: WorkspaceOption) -> None:
    """What came, went and changed between two states: instances, and columns of those that stayed."""
    from medgan.collection import read

    zones = _zones(workspace)
    states = (_state(name, state, zones) for state in (before, after))
    changes = read.difference(*(read.table(state, zones=zones) for state in states))
    typer.echo(f"{changes.added:,} frames came, {changes.removed:,} went")
    for column, count in changes.changed.items():
        typer.echo(f"  {column}: changed in {count:,} frames")


@collection.command()
def erase(
    name: NameArgument,
    workspace: WorkspaceOption,
    patient: Annotated[str | None, typer.Option(help="The patient's pseudonym, pt-...")] = None,
    grace_days: Annotated[int, typer.Option(min=0, max=_CENTURY_DAYS, help="Keep history for so many days.")] = 0,
) -> None:
    """Forget a patient. Without --patient the original id is read from standard input: ISSUER<tab>ID, or ID."""
    from medgan.collection import erase as erasing

    zones = _zones(workspace)
    pseudonym = patient or _pseudonym_from_stdin(zones)
    record = erasing.erase(name, pseudonym, zones=zones, grace=timedelta(days=grace_days))
    typer.echo(f"{record.patient}: {record.frames:,} frames erased, {record.snapshots_expired:,} past states gone")
    for what, handles in (("cohorts deleted", record.cohorts), ("models to retrain", record.models)):
        typer.echo(f"  {what}: {', '.join(handles) or 'none'}")
    typer.echo(f"  synthetic cohorts made with them: {', '.join(record.synthetic) or 'none'}")
    typer.echo(
        f"  landed copies deleted: {record.landed:,}, archives left with others in them: {record.landed_shared:,}"
    )
    typer.echo(f"  releases to reconsider (medgan withdraw): {', '.join(record.releases) or 'none'}")
    typer.echo(f"  restorers to retrain: {', '.join(record.restorers) or 'none'}")
    typer.echo(
        f"  to be looked at, for no pseudonym says whose images they hold: {', '.join(record.nameless) or 'none'}"
    )


@collection.command()
def expire(
    name: NameArgument,
    workspace: WorkspaceOption,
    days: Annotated[int, typer.Option(min=0, max=_CENTURY_DAYS, help="Age in days.")],
) -> None:
    """Let every state older than so many days go, but the newest; frees what only they held."""
    from medgan.collection import store

    older_than = datetime.now(UTC) - timedelta(days=days)
    expired = store.forget_history(name, older_than=older_than, zones=_zones(workspace))
    typer.echo(f"{expired:,} states expired")


@collection.command()
def prune(
    name: NameArgument,
    source: Annotated[str, typer.Argument(help="A registered remote source.")],
    workspace: WorkspaceOption,
    days: Annotated[int, typer.Option(min=0, max=_CENTURY_DAYS, help="Days that a copy stays after it landed.")] = 0,
) -> None:
    """Delete what landed from a remote source and is in the collection; `medgan source fetch --again` brings it back.

    MEDGAN_LANDING_DAYS does it after every ingest.
    """
    from medgan import keys
    from medgan.collection import landed, store

    zones = _zones(workspace)
    keyring = keys.load(zones.pseudonym_key)
    done = landed.prune(store.head(name, zones=zones), source, days=days, zones=zones, keyring=keyring)
    typer.echo(f"{done.let_go:,} landed copies deleted")


@collection.command()
def follow(
    name: NameArgument,
    source: Annotated[str, typer.Argument(help="A registered source, for example a drop folder.")],
    workspace: WorkspaceOption,
    profile: Annotated[str, typer.Option(help="De-identification profile.")] = "basic+clean-pixel-data",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 30.0,
) -> None:
    """Ingest whatever has arrived at a source, again and again, until SIGTERM or Ctrl-C.

    What cannot be done now (a full disk, a PACS that is down, another ingest) is tried again at the next look.
    """
    import signal
    import threading

    from medgan.collection import follow as following

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    zones = _zones(workspace)
    for line in following.follow(source, zones=zones, collection=name, profile=profile):
        if line:
            typer.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}")
        if stop.wait(every):
            return


def _pseudonym_from_stdin(zones: Zones) -> str:
    """Pseudonym of the id on standard input: an argument would stand in the process list and the shell's history."""
    from medgan import keys
    from medgan.deid import pseudonym
    from medgan.errors import InvalidRequest

    issuer, _, patient_id = sys.stdin.readline().rstrip("\r\n").rpartition("\t")
    if not patient_id.strip():
        raise InvalidRequest("no patient: name a pseudonym by --patient, or write ISSUER<tab>ID to standard input")
    return pseudonym.patient(keys.load(zones.pseudonym_key), issuer.strip(), patient_id.strip()).key


def _state(name: str, state: str, zones: Zones) -> CollectionSnapshot:
    from medgan.collection import store

    return store.head(name, zones=zones) if state == "head" else store.find(name, state, zones=zones)


def _zones(workspace: Path) -> Zones:
    from medgan.settings import Zones

    return Zones.under(workspace)
