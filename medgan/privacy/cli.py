"""`medgan audit-release`: the gate for anything that anybody made; mounted by `medgan.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Attack a set of synthetic images.", no_args_is_help=True)

_KINDS = "a release or cohort folder (with images.zarr), or a folder of PNG, JPEG, TIFF or BMP images"


@app.command("audit-release")
def audit_release(
    release: Annotated[Path, typer.Argument(help=f"The images to judge: {_KINDS}.")],
    train: Annotated[Path, typer.Option(help="The images the generator was trained on.")],
    holdout: Annotated[Path, typer.Option(help="Real images of other patients, which it never saw.")],
    policy: Annotated[str, typer.Option(help="strict, internal, or a TOML file of your own.")] = "strict",
    output: Annotated[Path | None, typer.Option(help="Folder for privacy.json and privacy.html.")] = None,
) -> None:
    """Run the privacy gate on its own. Exit status 0 when cleared, 6 when refused or inconclusive."""
    from rich.console import Console
    from rich.table import Table

    from medgan.privacy.audit import audit
    from medgan.records import Verdict

    result = audit(release, train, holdout, policy=policy, output=output)
    table = Table("test", "what", "value", "limit", "result", box=None)
    for test in result.tests:
        open_ = "not decidable, leans to a leak" if test.adverse else "not decidable"
        word = "passed" if test.passed else "FAILED" if test.conclusive else open_
        table.add_row(test.test, test.title, f"{test.value:.4g}", f"{test.limit:.4g}", word)
    console = Console()
    console.print(table)
    for reason in result.not_tested:
        console.print(f"not tested: {reason}")
    console.print(f"verdict under policy {policy}: {result.verdict.value}")
    if result.verdict is not Verdict.CLEARED:
        raise typer.Exit(6)
