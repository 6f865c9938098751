"""`medgan deid`, `medgan audit`, `medgan quarantine`: thin doors, mounted by `medgan.cli`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

EXIT_QUARANTINED = 3


class _RunsByDefault(TyperGroup):
    """`medgan deid SRC DST` is `medgan deid run SRC DST`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `run` before what is no command."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
deid = typer.Typer(cls=_RunsByDefault, no_args_is_help=True, help="De-identify DICOM by PS3.15 Annex E.")
audit_app = typer.Typer(no_args_is_help=True, help="The log of what was done to each instance.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Files that were refused, and what people decide about them.")
app.add_typer(deid, name="deid")
app.add_typer(audit_app, name="audit")
app.add_typer(quarantine_app, name="quarantine")

ProfileOption = Annotated[str, typer.Option("--profile", help="basic, with options joined by +.")]
SiteOption = Annotated[Path | None, typer.Option("--site", help="Overrides of single attributes (TOML).")]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Folder that holds the zones.")]
DigestArgument = Annotated[str, typer.Argument(help="First digits of the file's SHA-256.")]
ReviewerOption = Annotated[str, typer.Option("--reviewer", help="Who decides; goes into the log.")]


@deid.command()
def run(
    source: Annotated[Path, typer.Argument(help="Folder, zip, tar or file.")],
    destination: Annotated[Path, typer.Argument(help="Folder for the de-identified files.")],
    key: Annotated[str, typer.Option("--key", envvar="MEDGAN_KEY", help="file:PATH or env:NAME.")],
    profile: ProfileOption = "basic",
    site: SiteOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    map_path: Annotated[
        Path | None, typer.Option("--map", help="Keep the way back to patients in this file, sealed. Default: none.")
    ] = None,
    map_key: Annotated[str, typer.Option("--map-key", help="Key that seals the map, if not --key.")] = "",
) -> None:
    """De-identify DICOM files. Exit status: 0 all done, 2 unusable input, 3 some quarantined."""
    from medgan.deid import batch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was unpacked is removed
    columns = (TextColumn("de-identifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("deid", total=None)
        report = batch.deidentify_tree(
            source,
            destination,
            profile_name=profile,
            site=_site_text(site),
            key_handle=_handle(key),
            workers=workers,
            map_path=map_path,
            map_key_handle=_handle(map_key) if map_key else "",
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    table = Table.grid(padding=(0, 2))
    table.add_row("received", f"{report.received:,}")
    table.add_row("written", f"{report.written:,}")
    if report.known:
        table.add_row("known", f"{report.known:,}")
    for reason, count in report.quarantined.items():
        table.add_row(f"quarantined {reason}", f"{count:,}")
    Console().print(table)
    if report.quarantined:
        raise typer.Exit(EXIT_QUARANTINED)


@deid.command()
def explain(profile: ProfileOption = "basic", site: SiteOption = None) -> None:
    """What a profile does, as sorted sentences."""
    from medgan.deid import profile as profiles

    for sentence in profiles.explain(profiles.load(profile, _site_text(site))):
        typer.echo(sentence)


@deid.command("lookup")
def look_up(
    pseudonym: Annotated[str, typer.Argument(help="pt-... or st-..., as the files are named.")],
    map_path: Annotated[Path, typer.Option("--map", help="The map that a run kept.")],
    map_key: Annotated[str, typer.Option("--map-key", envvar="MEDGAN_MAP_KEY", help="file:PATH or env:NAME.")],
    reviewer: ReviewerOption,
) -> None:
    """Who or what a pseudonym stands for; the question is written into the log beside the map."""
    from medgan import keys
    from medgan.deid import mapping

    table = Table.grid(padding=(0, 2))
    for name, value in mapping.look_up(map_path, pseudonym, keys.load(_handle(map_key)), reviewer=reviewer).items():
        table.add_row(name, str(value))
    Console().print(table)


def _handle(key: str) -> str:
    """A key's handle; a bare path is a file."""
    return key if key.startswith(("file:", "env:")) else f"file:{Path(key).resolve()}"


def _site_text(site: Path | None) -> str:
    from medgan.errors import InvalidRequest

    if site is None:
        return ""
    try:
        return site.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest("the site file cannot be read") from None


@audit_app.command("verify")
def audit_verify(
    folder: Annotated[Path, typer.Argument(help="The audit folder, or the folder that holds it.")],
) -> None:
    """Check the chain of an audit log, and the files it speaks of where they lie beside it."""
    from medgan.deid import audit, batch
    from medgan.errors import InvalidRequest

    inner = folder / batch.AUDIT if (folder / batch.AUDIT).is_dir() else folder
    if not inner.is_dir():
        raise InvalidRequest("there is no audit log there")
    head, runs, instances = audit.verify(inner)
    if not runs:  # whoever checks a log must not be told that nothing holds together
        raise InvalidRequest("there is no audit log there")
    files = f", {batch.check_files(inner.parent):,} files are what they say" if inner.name == batch.AUDIT else ""
    typer.echo(f"{instances:,} lines of {runs:,} runs hold together{files}; head {head[:16]}")


@quarantine_app.command("list")
def quarantine_list(workspace: WorkspaceOption) -> None:
    """Refused files, by reason."""
    from medgan.deid import review
    from medgan.settings import Zones

    table = Table("file", "reason", "stage", "decision", box=None)
    for record, decision in review.pending(Zones.under(workspace)):
        table.add_row(record.sha256[:16], record.reason.value, record.stage, decision or "-")
    Console().print(table)


@quarantine_app.command("show")
def quarantine_show(
    digest: DigestArgument,
    workspace: WorkspaceOption,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Unseal its picture to this PNG file; needs the pseudonym key.")
    ] = None,
) -> None:
    """One refused file: why, where in the chain, and whether there is a picture to look at."""
    from medgan import keys
    from medgan.deid import review
    from medgan.settings import Zones

    zones = Zones.under(workspace)
    record = review.find(zones, digest)
    table = Table.grid(padding=(0, 2))
    table.add_row("sha256", record.sha256)
    table.add_row("reason", record.reason.value)
    table.add_row("stage", record.stage)
    table.add_row("study", record.study or "-")
    table.add_row("picture", "sealed" if review.picture_path(zones, record.sha256).exists() else "-")
    table.add_row("decision", review.decisions(zones).get(record.sha256, "-"))
    if picture is not None:
        review.write_picture(zones, record.sha256, picture, keys.load(zones.pseudonym_key))
    Console().print(table)


@quarantine_app.command("release")
def quarantine_release(digest: DigestArgument, workspace: WorkspaceOption, reviewer: ReviewerOption) -> None:
    """Let a file pass that somebody looked at: text or a face was suspected and is not there."""
    _decide(digest, workspace, "release", reviewer)


@quarantine_app.command("reject")
def quarantine_reject(digest: DigestArgument, workspace: WorkspaceOption, reviewer: ReviewerOption) -> None:
    """Keep a file out for good."""
    _decide(digest, workspace, "reject", reviewer)


def _decide(digest: str, workspace: Path, decision: str, reviewer: str) -> None:
    from medgan.deid import review
    from medgan.settings import Zones

    record = review.decide(Zones.under(workspace), digest, decision, reviewer=reviewer)
    typer.echo(f"{record.sha256[:16]}: {decision} is written down")
