"""`medgan validate`: what the suite for collections says about one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def validate(
    name: Annotated[str, typer.Argument(help="Name of the collection.")],
    workspace: Annotated[Path, typer.Option("--workspace", help="Folder that holds the zones.")],
    site: Annotated[Path | None, typer.Option(help="TOML file with limits and severities of this site.")] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Name the failing instances by pseudonymous key.")] = False,
) -> None:
    """Check every row of a collection; exit status 4 when a rule of severity stop fails."""
    from medgan.collection import store
    from medgan.settings import Zones
    from medgan.validation.inspect import inspect
    from medgan.validation.rules import Severity

    zones = Zones.under(workspace)
    findings = inspect(store.head(name, zones=zones), zones=zones, site=site)
    failed = [finding for finding in findings if not finding.passed]
    for finding in failed:
        typer.echo(
            f"{finding.severity}  {finding.rule}: {finding.failing:,} of {finding.rows:,}; expected: {finding.says}"
        )
        if keys:
            typer.echo("\n".join(f"      {key}" for key in finding.keys))
    typer.echo(f"{len(findings) - len(failed)} of {len(findings)} rules hold")
    if any(finding.severity == Severity.STOP for finding in failed):
        raise typer.Exit(4)
