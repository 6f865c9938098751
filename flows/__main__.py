"""Run a flow from a terminal: `python -m flows nightly --archive PATH --workspace DIR`.

Without `PREFECT_API_URL` a temporary Prefect server runs inside the workspace. A command prints
its outcome as a record; the next one reads it with `--from`, so the night can be walked by hand:

    python -m flows ingest --archive scans.zip --workspace w > ingest.json
    python -m flows train --from ingest.json --site deployments/sites/demo.yaml --workspace w > train.json
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from medgan.errors import InvalidRequest, MedganError, of_system, printable
from medgan.records import (
    AdaptRequest,
    ArchiveRef,
    CohortRecipe,
    CohortSpec,
    IngestOutcome,
    Night,
    PersonalRequest,
    Record,
    ReleaseTerms,
    RestorerRequest,
    SynthesisOutcome,
    TrainOutcome,
    TrainRequest,
)
from medgan.settings import Zones
from tasks import lasting, temporary

if TYPE_CHECKING:
    from prefect import Flow

app = typer.Typer(
    name="flows",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The flows of medgan: each command runs one, `nightly` runs them all. "
    "Exit status: 0 done, 2 unusable input, 4 validation failed, 5 training diverged, 6 refused by the gate, "
    "7 bytes or records are broken, 8 another is at work, 9 a disk or server did not answer.",
)

Archive = Annotated[Path, typer.Option(help="Folder, zip or tar of DICOM; may hold a labels.csv keyed by PatientID.")]
Workspace = Annotated[Path, typer.Option(help="Folder that holds the zones (and Prefect's own home).")]
Site = Annotated[Path | None, typer.Option(help="YAML file of flow parameters, as in deployments/sites/.")]
From = Annotated[Path, typer.Option("--from", help="Outcome record of the step before; - reads standard input.")]
Dataset = Annotated[str | None, typer.Option(help="Name that versions are published under.")]
Kimg = Annotated[float | None, typer.Option(help="Thousands of real images to show in training.")]
Images = Annotated[int | None, typer.Option(help="Synthetic images to make.")]
Policy = Annotated[str | None, typer.Option(help="Privacy policy that decides.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="Column of the label tables to keep; repeatable.")]
Profile = Annotated[str | None, typer.Option(help="De-identification profile and options.")]

RecordT = TypeVar("RecordT", bound=Record)
ReturnT = TypeVar("ReturnT")


@app.command()
def nightly(
    archive: Archive,
    workspace: Workspace,
    site: Site = None,
    dataset: Dataset = None,
    profile: Profile = None,
    kimg: Kimg = None,
    images: Images = None,
    policy: Policy = None,
) -> None:
    """Archive to published version: ingest, train, synthesize, clear, publish."""
    parameters = _night(_parameters(site, dataset=dataset, profile=profile, policy=policy, kimg=kimg, images=images))
    source = _register(archive, workspace)
    _start(workspace)
    from flows.nightly import nightly as flow
    from tasks.summary import render

    typer.echo(render(_run(flow, **(parameters | {"archive": source}))))


@app.command()
def ingest(
    archive: Archive,
    workspace: Workspace,
    collection: str = "main",
    profile: str = "basic+clean-pixel-data",
    label: Labels = None,
) -> None:
    """Archive to collection; prints the IngestOutcome."""
    source = _register(archive, workspace)
    _start(workspace)
    from flows.ingest import ingest as flow

    columns = {"label_columns": tuple(label)} if label else {}
    _emit(_run(flow, archive=source, collection=collection, profile=profile, **columns))


@app.command()
def train(step: From, workspace: Workspace, site: Site = None, kimg: Kimg = None) -> None:
    """Collection to generator; takes an IngestOutcome, prints the TrainOutcome."""
    parameters = _parameters(site, kimg=kimg)
    before = _read(step, IngestOutcome)
    _start(workspace)
    from flows.train import train as flow

    records = _records(parameters, recipe=CohortRecipe, training=TrainRequest)
    _emit(_run(flow, snapshot=before.ingest.snapshot, **records))


@app.command()
def adapt(
    step: From,
    base: Annotated[Path, typer.Option(help="TrainOutcome record of the generator to start from.")],
    workspace: Workspace,
    site: Site = None,
    steps: Annotated[int | None, typer.Option(help="Steps of adaptation.")] = None,
) -> None:
    """A generator brought to a site; takes the site's IngestOutcome, prints a TrainOutcome that goes on as any."""
    parameters = _parameters(site)
    if steps is not None:
        parameters["adaptation"] = {**(parameters.get("adaptation") or {}), "steps": steps}
    before, start = _read(step, IngestOutcome), _read(base, TrainOutcome)
    records = _records(parameters, recipe=CohortRecipe, adaptation=AdaptRequest)
    _start(workspace)
    from flows.adapt import adapt as flow

    _emit(_run(flow, snapshot=before.ingest.snapshot, base=start.model, **records))


@app.command()
def synthesize(
    step: From, workspace: Workspace, site: Site = None, images: Images = None, policy: Policy = None
) -> None:
    """Generator to measured synthetic cohort; takes a TrainOutcome, prints the SynthesisOutcome."""
    parameters = _parameters(site, images=images, policy=policy)
    before = _read(step, TrainOutcome)
    _start(workspace)
    from flows.synthesize import synthesize as flow

    policy = parameters.get("policy", "internal")
    _emit(_run(flow, trained=before, policy=policy, **_records(parameters, spec=CohortSpec)))


@app.command()
def publish(step: From, workspace: Workspace, night: Path, site: Site = None) -> None:
    """Cleared cohort to published version; takes a SynthesisOutcome and a Night, prints the Release."""
    parameters = _parameters(site)
    before, tonight = _read(step, SynthesisOutcome), _read(night, Night)
    _start(workspace)
    from flows.publish import publish as flow

    _emit(_run(flow, synthesis=before, night=tonight, **_records(parameters, terms=ReleaseTerms)))


@app.command("learn-restoration")
def learn_restoration(
    step: From,
    workspace: Workspace,
    task: Annotated[str, typer.Option(help="super-resolution-x2, denoise, inpaint, compression, ...")],
    modality: Annotated[str, typer.Option(help="DICOM modality to learn from.")] = "MR",
    steps: Annotated[int, typer.Option(help="Steps on pixels alone.")] = 3000,
    adversarial_steps: Annotated[int, typer.Option(help="Steps against the critic.")] = 1000,
) -> None:
    """Collection to restorer; takes an IngestOutcome, prints the RestorerModel."""
    before = _read(step, IngestOutcome)
    asked = {"task": task, "modality": modality, "steps": steps, "adversarial_steps": adversarial_steps}
    records = _records({"request": asked}, request=RestorerRequest)
    _start(workspace)
    from flows.restore import learn_restoration as flow

    _emit(_run(flow, snapshot=before.ingest.snapshot, **records))


@app.command()
def restore(
    archive: Archive,
    workspace: Workspace,
    restorer: Annotated[str, typer.Option(help="Handle of a restorer, as learn-restoration printed it.")],
) -> None:
    """Archive to restored images in the identified zone; prints the RestorationReport."""
    source = _register(archive, workspace)
    _start(workspace)
    from flows.restore import restore as flow

    _emit(_run(flow, archive=source, restorer=restorer))


@app.command()
def erase(patient: str, workspace: Workspace, collection: str = "main", grace_days: int = 0) -> None:
    """A patient withdraws, by pseudonym (`medgan collection erase` finds it from the id); prints the Erasure."""
    _start(workspace)
    from flows.erase import erase as flow

    _emit(_run(flow, patient=patient, collection=collection, grace_days=grace_days))


@app.command()
def deploy(
    workspace: Workspace,
    site: Annotated[list[Path] | None, typer.Option(help="One night a file, named after it; repeatable.")] = None,
    webhook: Annotated[
        Path | None, typer.Option(help="File (mode 0600) with the address that notices are posted to.")
    ] = None,
) -> None:
    """Tell the Prefect server of pools, deployments and automations; repeat it after every change."""
    sites = {path.stem: _parameters(path) for path in site or ()}
    nights = [_night(parameters) for parameters in sites.values()]
    address = None if webhook is None else _secret(webhook)
    lasting.required()
    temporary.configure(workspace)
    from flows.nightly import nightly as flow
    from tasks.deploy import deploy as make

    for night in nights:
        _check(flow, night | {"archive": ArchiveRef(source="main")})
    for line in make(sites, webhook=address):
        typer.echo(line)


@app.command()
def server(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    pulse: Annotated[float, typer.Option(min=1, help="Seconds between two events that must be acted on.")] = 60,
) -> None:
    """The Prefect server, started again when it ends or acts on no event; its settings are Prefect's own."""
    from tasks.server import serve

    serve(host=host, port=port, pulse_seconds=pulse)


@app.command()
def watch(
    source: str,
    workspace: Workspace,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 10,
) -> None:
    """Watch a registered drop folder: whatever has settled in it starts the ingest deployment."""
    lasting.required()
    temporary.configure(workspace)
    from tasks.watch import announce, arrivals

    for files in arrivals(source, Zones.under(workspace), every_seconds=every):
        announce(source)
        typer.echo(f"{source}: {files:,} files are finished, the ingest is told")


@app.command()
def metrics(
    workspace: Workspace,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9108,
) -> None:
    """Answer Prometheus: nights, collections, releases, disks (infra/grafana/medgan.json draws them)."""
    from tasks.metrics import serve

    serve(Zones.under(workspace), host=host, port=port)


@app.command()
def personalize(
    release: Annotated[str, typer.Option(help="NAME or NAME@VERSION of the workspace's registry.")],
    cases: Annotated[Path, typer.Option(help=".npz: images (N, H, W), target (N,) or masks (N, H, W), patient (N,).")],
    workspace: Workspace,
    site: Site = None,
    shots: Annotated[list[int] | None, typer.Option("--shots", help="Real training cases; repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Repetitions; intervals are over them.")] = None,
) -> None:
    """Release and local cases to what a model for those cases gains; prints the PersonalReport."""
    from tasks.sources import register_cases

    local = register_cases(cases, workspace)
    parameters = _parameters(site)
    asked: dict[str, Any] = {"task": local.task}
    asked |= parameters.get("request", {})
    asked |= {"shots": tuple(shots)} if shots else {}
    asked |= {"seeds": seeds} if seeds is not None else {}
    records = _records({"request": asked}, request=PersonalRequest)
    _start(workspace)
    from flows.personalize import personalize as flow

    _emit(_run(flow, release=release, cases=local, **records))


@app.command()
def doctor(workspace: Workspace) -> None:
    """Check everything that a night needs, and say what to fix; exit status 1 if anything."""
    lasting.adopt()
    from tasks.doctor import examine

    healthy = True
    for well, what, found in examine(Zones.under(workspace)):
        healthy &= well
        typer.echo(f"{'ok ' if well else 'FIX'}  {what:<15}{found}")
    raise typer.Exit(0 if healthy else 1)


def _night(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a night with their records built; what only a deployment has is left out."""
    if "dataset" not in parameters:
        raise InvalidRequest("a data set needs a name: --dataset, or dataset in the --site file")
    records = _records(parameters, recipe=CohortRecipe, terms=ReleaseTerms, training=TrainRequest, spec=CohortSpec)
    return {key: value for key, value in (parameters | records).items() if key not in {"archive", "schedule"}}


def _parameters(
    site: Path | None, *, kimg: float | None = None, images: int | None = None, **overrides: str | None
) -> dict[str, Any]:
    """Flow parameters: the site's file, then what the command line says."""
    try:
        parameters: dict[str, Any] = {} if site is None else dict(yaml.safe_load(_text(site)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise InvalidRequest("the --site file is not a YAML mapping; see deployments/sites/demo.yaml") from None
    parameters |= {key: value for key, value in overrides.items() if value is not None}
    if kimg is not None:
        parameters["training"] = {**(parameters.get("training") or {}), "total_kimg": kimg}
    if images is not None:
        parameters["spec"] = {**(parameters.get("spec") or {}), "images": images}
    return parameters


def _records(parameters: dict[str, Any], **kinds: type[Record]) -> dict[str, Any]:
    """Each named parameter as its record, so that a mistake in the site's file is told before anything starts."""
    try:
        return {name: kind.model_validate(parameters.get(name, {})) for name, kind in kinds.items()}
    except ValidationError as error:
        raise InvalidRequest(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    """Where and what, without the value that was given."""
    mistakes = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors())
    return f"{error.title}: {mistakes}"


def _register(archive: Path, workspace: Path) -> Any:
    from tasks.sources import register

    return register(archive, workspace)


def _start(workspace: Path) -> None:
    """What a flow needs before it is imported: Prefect's settings, and a server."""
    temporary.configure(workspace)
    temporary.start()


def _run(flow: Flow[..., ReturnT], **parameters: Any) -> ReturnT:
    """Call a flow with parameters that were checked first, because Prefect writes them down before it looks at them."""
    _check(flow, parameters)
    outcome: ReturnT = flow(**parameters)
    return outcome


def _check(flow: Flow[..., Any], parameters: dict[str, Any]) -> None:
    """`InvalidRequest` for a parameter that the flow does not have, misses or would refuse; it tells no value."""
    from prefect.exceptions import ParameterTypeError

    known = inspect.signature(flow.fn)
    if strange := set(parameters) - set(known.parameters):
        raise InvalidRequest(f"{flow.name} has no parameter {', '.join(sorted(map(str, strange)))}")
    try:
        given = known.bind(**parameters)
        given.apply_defaults()
        flow.validate_parameters(given.arguments)
    except (ParameterTypeError, TypeError) as error:
        raise InvalidRequest(f"{flow.name}: {' '.join(str(error).split())}") from None


def _read(step: Path, kind: type[RecordT]) -> RecordT:
    try:
        return kind.model_validate_json(_text(step))
    except ValidationError as error:
        raise InvalidRequest(_explain(error)) from None


def _secret(path: Path) -> str:
    """A file that only its owner can read."""
    text = _text(path).strip()
    if path.stat().st_mode & 0o077:
        raise InvalidRequest("others can read the --webhook file: chmod 600")
    return text


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as error:
        raise InvalidRequest(f"a file given on the command line cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidRequest("a file given on the command line is no text (UTF-8)") from None


def _emit(outcome: Record) -> None:
    typer.echo(outcome.model_dump_json(indent=2))


def main() -> None:
    """Run a command; a foreseen error is one sentence on standard error and its own exit status."""
    errors = Console(stderr=True, emoji=False)
    try:
        try:
            app()
        except OSError as error:
            raise of_system(error) from None
    except MedganError as error:
        sentence = f"[bold red]{error.kind}[/]: {escape(printable(' '.join(str(error).split())))}"
        errors.print(sentence, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except RuntimeError as error:
        errors.print(f"[bold red]unexpected[/]: {type(error).__name__}; is the workspace writable?", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
