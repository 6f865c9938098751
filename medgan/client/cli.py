"""`medgan list|info|pull|verify`: thin doors to the client's verbs, mounted by `medgan.cli`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from medgan.errors import printable

_INTERRUPTED = 130

app = typer.Typer(help="List, pull, verify and compare published synthetic data sets.", no_args_is_help=True)

RegistryOption = Annotated[
    str | None, typer.Option("--registry", envvar="MEDGAN_REGISTRY", help="Folder or address; the last one if empty.")
]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", help="The registry's public key (PEM); needed once, then remembered.")
]
SpecArgument = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="Version: 1, 1.2, 1.2.3, or a channel: latest, stable.")
]


@app.command("list")
def list_releases(registry: RegistryOption = None, trust: TrustOption = None) -> None:
    """Data sets and versions of a registry."""
    from medgan.client import report

    table = _Table("data set", "version", "status", "images", "MB", "created", title=None, box=None)
    for entry in report.versions(registry=registry, trust=trust):
        for version in reversed(entry.versions):
            marks = [name for name, chosen in sorted(entry.channels.items()) if chosen == version.version]
            status = ", ".join([str(version.status), *marks])
            size = f"{version.bytes / 1e6:.1f}"
            table.add_row(entry.name, version.version, status, f"{version.images:,}", size, version.created)
    _show(table)


@app.command()
def info(spec: SpecArgument, registry: RegistryOption = None, trust: TrustOption = None) -> None:
    """What one version is: classes, evidence, licence."""
    from medgan.client import report

    manifest = report.info(spec, registry=registry, trust=trust)
    table = _Table(box=None, padding=(0, 2), show_header=False)
    table.add_row("data set", f"{manifest.name}@{manifest.version}: {manifest.title}")
    table.add_row("created", manifest.created)
    table.add_row("licence", manifest.licence)
    table.add_row("images", f"{manifest.images:,} synthetic")
    for name, count in sorted(manifest.class_counts.items()):
        table.add_row("", f"{count:,} {name}")
    if structures := report.structures(spec, registry=registry, trust=trust):
        table.add_row("masks", ", ".join(f"{value} {name}" for value, name in enumerate(structures, start=1)))
    if manifest.evidence is not None:
        table.add_row("privacy gate", f"cleared under policy {manifest.evidence.policy}")
    table.add_row("size", f"{sum(file.size for file in manifest.files) / 1e6:.1f} MB in {len(manifest.files)} files")
    _show(table)


@app.command()
def pull(
    spec: SpecArgument,
    registry: RegistryOption = None,
    trust: TrustOption = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to put the version in; the cache if empty.")] = None,
    allow_withdrawn: Annotated[bool, typer.Option(help="Pull a version that was withdrawn.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: verify what is in the cache.")] = False,
) -> None:
    """Pull NAME or NAME@VERSION, verify every byte, and print where it lies."""
    from medgan.client import progress
    from medgan.client import pull as pulls

    with progress.shown(spec) as on_progress:
        folder = pulls.pull(
            spec,
            registry=registry,
            trust=trust,
            destination=to,
            allow_withdrawn=allow_withdrawn,
            offline=offline,
            on_progress=on_progress,
        )
    typer.echo(folder)


@app.command()
def verify(
    spec: SpecArgument,
    registry: RegistryOption = None,
    trust: TrustOption = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where it lies, if not in the cache.")] = None,
) -> None:
    """Check a pulled version again: signatures, every file, nothing extra."""
    from medgan.client import progress, report

    with progress.shown(f"verify {spec}") as on_progress:
        manifest = report.verify_pulled(spec, registry=registry, trust=trust, folder=folder, on_progress=on_progress)
    typer.echo(f"{manifest.name}@{manifest.version}: {len(manifest.files)} files are as they were signed")


@app.command()
def export(
    spec: SpecArgument,
    folder: Annotated[Path, typer.Argument(help="A new folder, or one in which this export was interrupted.")],
    form: Annotated[
        str,
        typer.Option("--form", "--as", help="png (with a table), nifti, huggingface (Parquet for datasets) or dicom."),
    ] = "png",
    split: Annotated[str | None, typer.Option("--split", help="One split only.")] = None,
    registry: RegistryOption = None,
    trust: TrustOption = None,
) -> None:
    """Pull and verify a version, and write its images in another format. Interrupted, it goes on when run again."""
    from medgan.client import load, progress

    dataset = load.load(spec, split, registry=registry, trust=trust)
    try:
        with progress.shown(f"export {spec}", unit="images") as on_progress:
            written = dataset.export(folder, form, on_progress=on_progress)
    except KeyboardInterrupt:
        typer.echo("interrupted: what is written stays; run the same command to go on", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    typer.echo(written)


@app.command()
def materialise(spec: SpecArgument, registry: RegistryOption = None, trust: TrustOption = None) -> None:
    """Pull and verify a version, and write its uncompressed tier, which loads at memory speed."""
    from medgan.client import materialise as fast
    from medgan.client import progress
    from medgan.client import pull as pulls

    with progress.shown(spec) as on_progress:
        folder = pulls.pull(spec, registry=registry, trust=trust, on_progress=on_progress)
    with progress.shown(f"materialise {spec}", unit="images") as on_progress:
        written = fast.materialise(folder, on_progress=on_progress)
    typer.echo(written)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    second: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    registry: RegistryOption = None,
    trust: TrustOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """What changed between two versions: shards, classes, quality and privacy numbers."""
    from medgan.client import diff as diffs

    found = diffs.diff(first, second, registry=registry, trust=trust)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=1))  # ASCII: nothing in it steers a terminal
    else:
        typer.echo("\n".join(map(printable, found.lines())))


class _Table(Table):
    """A table whose words are a publisher's: none of them steers the terminal."""

    def add_row(self, *cells: str) -> None:  # type: ignore[override]  # of all that rich takes
        super().add_row(*map(printable, cells))


def _show(table: Table) -> None:
    """Print a table as it is: its words are a publisher's, no markup; lines are whole where no terminal cuts them."""
    wide = None if sys.stdout.isatty() else 1000
    Console(markup=False, emoji=False, highlight=False, width=wide).print(table)
