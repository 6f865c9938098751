"""`medgan ...`: one door to every room; each room brings its own commands.

Room modules import their heavy libraries inside their commands, so that `medgan --help` is quick
and the light install (no torch, no pydicom) still lists and pulls.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from medgan.errors import MedganError, of_system, printable

app = typer.Typer(
    name="medgan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Synthetic medical imaging data sets that may be shared: pull one, or run the rooms that make them. "
    "Exit status: 0 done, 2 unusable input, 3 some quarantined, 4 validation failed, 5 training diverged, "
    "6 refused by the gate, 7 not what was signed, 8 another is at work, 9 a disk or server did not answer.",
)

# Each module has `app`; its commands are added to the top level.
_ROOMS = (
    "medgan.client.cli",
    "medgan.archive.cli",
    "medgan.deid.cli",
    "medgan.release.cli",
    "medgan.collection.cli",
    "medgan.validation.cli",
    "medgan.privacy.cli",
    "medgan.synthesis.cli",
    "medgan.restoration.cli",
    "medgan.personal.cli",
)

key = typer.Typer(no_args_is_help=True, help="The pseudonym key.")
app.add_typer(key, name="key")


@key.command("new")
def key_new(path: Annotated[Path, typer.Argument(help="Where the key goes: <workspace>/keys/pseudonym.key.")]) -> None:
    """Make a pseudonym key (mode 0600). Keep it: with it lost, no patient is recognised again."""
    from medgan import keys

    keys.create(path)
    typer.echo("a new key stands there, readable by you alone; back it up apart from the data")


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where to build the archive.")],
    radiographs: Annotated[Path, typer.Option(help="PneumoniaMNIST (.npz).")],
    patients: Annotated[int | None, typer.Option(help="Only the first so many patients.")] = None,
) -> None:
    """Build the demo archive: real radiographs of made-up patients, and real vendor files."""
    from medgan.archive.phantom import build_demo_archive

    planted = build_demo_archive(folder, radiographs=radiographs, patients=patients)
    typer.echo(f"{len(planted.needles):,} made-up identifiers planted")


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("medgan"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version of medgan.")
    ] = False,
) -> None:
    del version  # said already


for _room in _ROOMS:
    app.add_typer(importlib.import_module(_room).app)


def main() -> None:
    """Run a command; a foreseen error is one sentence on standard error and its own exit status."""
    try:
        try:
            app()
        except OSError as error:
            raise of_system(error) from None
    except MedganError as error:
        sentence = f"[bold red]{error.kind}[/]: {escape(printable(str(error)))}"
        Console(stderr=True, emoji=False).print(sentence, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
