"""`medgan restore` and `medgan restorer`: clearer images out of an archive, and the models that make them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

app = typer.Typer(help="Sharpen and repair images.", no_args_is_help=True)

TaskOption = Annotated[
    str,
    typer.Option(
        help="super-resolution-x2, super-resolution-x4, denoise, low-dose, inpaint or compression.", metavar="TASK"
    ),
]
QUARANTINED = 3


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder, zip, tar or file of DICOM; only read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the derived instances.")],
    task: TaskOption,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the restorer; MEDGAN_RESTORERS/TASK where it is not given.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Inpainting: a PNG or .npy that is not 0 where all images are defective.")
    ] = None,
) -> None:
    """Restore images into derived DICOM instances with a second series that says where to doubt them.

    Originals are never changed. Exit status 3 when files were quarantined: OUT/quarantine.jsonl says why.
    """
    from medgan.errors import InvalidRequest
    from medgan.gan.repair import Restorer
    from medgan.restoration import run

    restorer = Restorer(model or _standing(task))
    if restorer.config.task != task:
        raise InvalidRequest(f"this restorer was trained for {restorer.config.task}: name that task or another model")
    with _bar() as bar:
        row = bar.add_task(f"restore ({task})", total=None)
        report = run.restore(
            source,
            out,
            restorer,
            mask_HW=None if mask is None else run.read_mask(mask),
            on_progress=lambda done, _: bar.update(row, completed=done),
        )
    refused = sum(report.quarantined.values())
    typer.echo(
        f"{report.received:,} files: {report.restored:,} restored, {report.untouched:,} left alone, "
        f"{refused:,} quarantined"
    )
    for reason, count in report.quarantined.items():
        typer.echo(f"  {count:,} {reason}")
    if report.restored:
        typer.echo(
            f"largest residual A(answer) - seen: {report.inconsistency_worst:.2e} of the window (rms); "
            f"mean bound of the error {report.uncertainty_mean:.3f} of the window"
        )
    typer.echo(f"look at {out / run.PAGE}")
    if refused:
        raise typer.Exit(QUARANTINED)


@app.command()
def restorer(
    source: Annotated[Path, typer.Argument(metavar="IMAGES", help="DICOM folder or archive, .nii(.gz), .npz or .npy.")],
    out: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the model; an interrupted run goes on.")],
    task: TaskOption,
    modality: Annotated[str, typer.Option(help="DICOM modality to learn from, and to accept later.")] = "MR",
    body_part: Annotated[
        str, typer.Option(help="What images show that do not say so themselves (HEAD, KNEE); others are refused later.")
    ] = "",
    steps: Annotated[int, typer.Option(help="Steps on pixels alone.")] = 3000,
    adversarial_steps: Annotated[int, typer.Option(help="Steps against the critic.")] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train a restorer on any images, by degrading them as a scanner, a dose or a narrow line would."""
    from medgan.gan.restore import fit
    from medgan.gan.restore_config import RestoreConfig
    from medgan.restoration import learn
    from medgan.restoration.page import told

    config = RestoreConfig(task=task, steps=steps, adversarial_steps=adversarial_steps, seed=seed)
    with _bar() as bar:
        row = bar.add_task("read images", total=None)
        scans, attrs = learn.from_files(source, modality=modality, body_part=body_part)
        bar.update(row, description=f"train ({len(scans.images):,} images)", total=config.total_steps)
        made = fit(scans, config, out, attrs=attrs, on_tick=lambda tick: bar.update(row, completed=tick.step))
    typer.echo(
        f"{made.held_out['psnr_db']:.2f} dB on {made.held_out['images']:.0f} held-out images, "
        f"{made.held_out['naive_psnr_db']:.2f} dB without the network\n{told(made)}"
    )


def _standing(task: str) -> Path:
    """The site's restorer for a task, below the folder that MEDGAN_RESTORERS names."""
    import os

    from medgan.errors import InvalidRequest

    root = os.environ.get("MEDGAN_RESTORERS")
    if not root:
        raise InvalidRequest("no restorer: name one by --model, or train one: medgan restorer IMAGES MODEL --task TASK")
    return Path(root) / task


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
