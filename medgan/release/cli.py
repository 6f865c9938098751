"""`medgan approve|withdraw|promote|renew|resign`: what people decide about a registry after the machine published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Approve, withdraw or promote published versions.", no_args_is_help=True)

SpecArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The exact version.")]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Folder that holds the zones.")]


@app.command()
def approve(
    spec: SpecArgument,
    workspace: WorkspaceOption,
    key: Annotated[Path, typer.Option("--key", help="The approver's Ed25519 key; made there when it is missing.")],
) -> None:
    """Sign a version as data-protection approver, the second of two signatures."""
    from medgan.release import retract, sign
    from medgan.settings import Zones

    if not key.exists():
        typer.echo(f"a new approver's key is made: keep {key.name} secret, and apart from the pipeline's", err=True)
    public = sign.create_key(key)
    approved = retract.approve(spec, key=key, zones=Zones.under(workspace))
    typer.echo(f"{spec}: {approved.status}, {approved.signatures} signatures; downstream teams pin {public.name} too")


@app.command()
def withdraw(
    spec: SpecArgument,
    workspace: WorkspaceOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; every reader will see it.")],
    erase: Annotated[bool, typer.Option("--erase", help="Delete its files too; the tombstone stays.")] = False,
) -> None:
    """Withdraw a version: clients refuse it from now on, and its number is never used again."""
    from medgan.release import retract
    from medgan.settings import Zones

    gone = retract.withdraw(spec, reason, zones=Zones.under(workspace), erase=erase)
    typer.echo(f"{spec}: {gone.status}")


@app.command()
def promote(
    spec: SpecArgument,
    workspace: WorkspaceOption,
    channel: Annotated[str, typer.Option("--channel", help="The name that readers ask for: NAME@stable.")] = "stable",
) -> None:
    """Make a channel name this version; it stays there until another one is promoted."""
    from medgan.release import retract
    from medgan.settings import Zones

    moved = retract.promote(spec, channel, zones=Zones.under(workspace))
    typer.echo(f"{moved.name}@{channel} is {moved.channels[channel]}")


@app.command()
def renew(workspace: WorkspaceOption) -> None:
    """Sign the registry's index again: clients stop believing it 30 days after the last publication or renewal."""
    from medgan.release import retract
    from medgan.settings import Zones

    table = retract.renew(zones=Zones.under(workspace))
    typer.echo(f"index {table.counter}: valid until {table.expires}")


@app.command()
def resign(
    workspace: WorkspaceOption,
    old: Annotated[Path, typer.Option("--old", help="The public key that signed until now (pipeline.pub).")],
) -> None:
    """Sign a registry anew after its signing key was replaced; clients pin the new public key."""
    from medgan.release import rotate
    from medgan.settings import Zones

    zones = Zones.under(workspace)
    table = rotate.resign(old, zones=zones)
    typer.echo(f"index {table.counter} and every version are signed anew; hand over {zones.signing_key.stem}.pub")
