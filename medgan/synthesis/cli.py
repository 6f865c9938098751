"""`medgan synthesize|redraw`: a request to a synthetic cohort, with its plan, a bar, and a cohort that resumes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from medgan.errors import InvalidRequest

if TYPE_CHECKING:
    from medgan.records import SyntheticCohort
    from medgan.synthesis.dispatch import OnProgress

app = typer.Typer(help="Make synthetic cohorts from a trained generator.", no_args_is_help=True)

_INTERRUPTED = 130

Workspace = Annotated[Path, typer.Option(help="Folder that holds the zones.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Dask workers on this machine; one a core if empty.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a running Dask scheduler instead.")]
Resource = Annotated[list[str] | None, typer.Option(help="What a block needs of its worker: GPU=1; repeatable.")]


@app.command()
def synthesize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Handle of the generator: mo-...")],
    workspace: Workspace,
    request: Annotated[
        Path | None, typer.Argument(help="TOML or YAML of a CohortSpec; 2,048 images like the real ones if empty.")
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    resource: Resource = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Tell cost and content, make nothing.")] = False,
) -> None:
    """Print the plan, make the cohort, print its record. Interrupted, it goes on where it stopped when run again."""
    from medgan.records import CohortSpec
    from medgan.settings import Zones
    from medgan.synthesis import plan, redraw
    from medgan.synthesis import request as requests
    from medgan.synthesis.dispatch import Run
    from medgan.synthesis.generate import generate

    zones = Zones.under(workspace)
    trained = redraw.trained_model(model, zones=zones)
    spec = CohortSpec() if request is None else requests.read(request)
    told = plan.plan(trained, spec, zones=zones, workers=workers)
    for line in told.lines():
        typer.echo(line, err=True)
    if plan_only:
        return

    def make(on_progress: OnProgress) -> SyntheticCohort:
        run = Run(workers=workers, scheduler=scheduler, resources=_resources(resource), on_progress=on_progress)
        return generate(trained, spec, zones=zones, run=run)

    _with_bar("images", make)


@app.command("redraw")
def redraw_rows(
    cohort: Annotated[str, typer.Argument(metavar="COHORT", help="Handle of the synthetic cohort: sy-...")],
    rows: Annotated[list[int], typer.Argument(help="Rows whose images are to be drawn again.")],
    workspace: Workspace,
    attempt: Annotated[int, typer.Option(min=1, help="1 the first time, then the next number.")] = 1,
    workers: Workers = None,
    scheduler: Scheduler = None,
) -> None:
    """Draw some images of a cohort again; prints the new cohort's record."""
    from medgan.cohort import synthetic
    from medgan.settings import Zones
    from medgan.synthesis import redraw
    from medgan.synthesis.dispatch import Run

    zones = Zones.under(workspace)
    found = synthetic.record(cohort, zones=zones)
    if found is None:
        raise InvalidRequest("there is no synthetic cohort of that handle: generate it first")

    def make(on_progress: OnProgress) -> SyntheticCohort:
        run = Run(workers=workers, scheduler=scheduler, on_progress=on_progress)
        return redraw.redraw(found, rows, attempt, zones=zones, run=run)

    _with_bar("images", make)


def _with_bar(what: str, make: Callable[[OnProgress], SyntheticCohort]) -> None:
    """Run `make` under a bar and print the record; Ctrl-C says what was kept."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    seen = (0, 0)
    made: SyntheticCohort | None = None
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            nonlocal seen
            seen = done, total
            bar.update(row, completed=done, total=total)

        with suppress(KeyboardInterrupt):
            made = make(report)
    if made is None:
        typer.echo(f"interrupted: {seen[0]:,} of {seen[1]:,} images are kept; run the same command to go on", err=True)
        raise typer.Exit(_INTERRUPTED)
    typer.echo(made.model_dump_json(indent=2))


def _resources(given: list[str] | None) -> dict[str, float] | None:
    """`GPU=1` as a mapping."""
    found = {}
    for text in given or ():
        name, equals, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            equals = ""
        if not (name and equals):
            raise InvalidRequest("a resource reads NAME=AMOUNT, for example GPU=1")
    return found or None
