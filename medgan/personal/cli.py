"""`medgan personalize`: does a release make a model better for these cases?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(help="Train for your own cases with a release.", no_args_is_help=True)


@app.command()
def personalize(
    spec: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The release.")],
    cases: Annotated[
        Path,
        typer.Argument(metavar="CASES.npz", help="`images`, `masks` (N, H, W) or `target` (N,), and `patient` (N,)."),
    ],
    workspace: Annotated[Path, typer.Option(help="Folder whose pseudonymised zone keeps the cases and the report.")],
    registry: Annotated[str | None, typer.Option(envvar="MEDGAN_REGISTRY", help="Folder or address.")] = None,
    trust: Annotated[Path | None, typer.Option(help="The registry's public key (PEM).")] = None,
    shots: Annotated[str, typer.Option(help="Numbers of real training cases.")] = "10,50,200",
    seeds: Annotated[int, typer.Option(help="Repetitions; intervals are over them.")] = 5,
    steps: Annotated[int, typer.Option(help="Training steps of each model.")] = 300,
    task: Annotated[
        str | None, typer.Option(help="classification, regression or segmentation; what the cases are for if empty.")
    ] = None,
) -> None:
    """Compare training with and without a release's synthetic cases, on half of your patients; write a report.

    Targets are classes, numbers, or masks (segmentation, with a release that has masks). The report says so when
    nothing is gained.
    """
    from medgan.client import load
    from medgan.errors import InvalidRequest
    from medgan.personal import cases as local_cases
    from medgan.personal import fit
    from medgan.records import PersonalRequest
    from medgan.settings import Zones

    zones = Zones.under(workspace)
    local = local_cases.register(cases, zones=zones)
    try:
        request = PersonalRequest(
            task=task or local.task,
            shots=tuple(int(one) for one in shots.split(",")),
            seeds=seeds,
            steps=steps,
        )
    except ValueError:
        raise InvalidRequest(
            "--shots are rising whole numbers such as 10,50,200, --seeds from 2 to 50, --steps at least 1, and --task "
            "one of classification, regression and segmentation"
        ) from None
    dataset = load.load(spec, registry=registry, trust=trust)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        row = progress.add_task("train and test", total=None)
        report = fit.personalise(
            dataset,
            local,
            request,
            zones=zones,
            on_progress=lambda done, total: progress.update(row, completed=done, total=total),
        )
    table = Table("way to train", "real cases", report.metric, "95 % interval", box=None)
    for one in report.scores:
        table.add_row(one.arm, str(one.shots), f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}")
    Console().print(table)
    typer.echo(report.headline)
    folder = local_cases.folder_of(local.cases, zones=zones) / f"{dataset.name}-{dataset.version}"
    typer.echo(f"look at {folder / fit.PAGE}")
