"""The night in a few lines: printed on a terminal, and the first thing on the run's page."""

from __future__ import annotations

import base64

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from medgan.records import Measure, NightReport
from tasks import runtime


@runtime.step("summarise night", retries=0)
def summarise(report: NightReport) -> str:
    """Write the summary and the image grid to the run's page; returns the text."""
    text = render(report)
    create_markdown_artifact(key="night", markdown=f"```\n{text}\n```", description="The night in a few lines.")
    picture = grid(report)
    if picture is not None:
        encoded = base64.b64encode(picture).decode()
        create_image_artifact(
            key="grid", image_url=f"data:image/png;base64,{encoded}", description="Synthetic images of this version."
        )
    return text


def render(report: NightReport) -> str:
    """The summary as plain text, every number from a record."""
    ingest, scan = report.ingest.ingest, report.ingest.scan
    model, made, release = report.training.model, report.synthesis.synthetic, report.release
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(ingest.quarantined.items()))
    registry, trust = runtime.zones().registry, runtime.zones().keys / "pipeline.pub"
    lines = [
        f"night {report.night.number} of {report.night.dataset}",
        f"  read          {scan.files:,} files, {scan.instances:,} instances, {scan.studies:,} studies",
        f"  de-identified {ingest.stored:,} stored, {ingest.known:,} known already (profile {ingest.profile})",
        f"  quarantined   {sum(ingest.quarantined.values()):,}{f' ({reasons})' if reasons else ''}",
        f"  labels        {ingest.labels_joined:,} joined, {ingest.labels_unmatched:,} unmatched",
        f"  trained       {model.kimg:g} kimg in {model.seconds:.0f} s on {_split(report)}",
        f"  synthesised   {made.images:,} images ({_counts(made.class_counts)})",
        *(f"  {_measure(measure)}" for measure in report.synthesis.quality.measures),
        f"  gate          {report.synthesis.privacy.verdict.value} (policy {report.synthesis.privacy.policy})",
        *(
            f"    {test.test:<4}{test.title}: {test.value:.4g} (limit {test.limit:g})"
            f"{'' if test.conclusive else ', inconclusive'}"
            for test in report.synthesis.privacy.tests
        ),
        f"published {release.name}@{release.version}  {release.images:,} images, {release.bytes / 1e6:.1f} MB",
        f"  catalogue     {registry / 'index.html'}",
        f"  pull it       medgan pull {release.name}@{release.version} --registry {registry} --trust {trust}",
    ]
    return "\n".join(lines)


def grid(report: NightReport) -> bytes | None:
    """The version's preview picture (PNG), where it has one."""
    folder = runtime.zones().registry / report.release.name / report.release.version / "preview"
    picture = next(iter(sorted(folder.glob("*.png"))), None)
    return None if picture is None else picture.read_bytes()


def _split(report: NightReport) -> str:
    patients = report.training.cohort.cohort.patients
    return ", ".join(f"{count:,} {split}" for split, count in sorted(patients.items(), key=lambda item: -item[1]))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def _measure(measure: Measure) -> str:
    beside = "" if measure.reference is None else f"  ({measure.reference_name} {measure.reference:.3f})"
    return f"{measure.name:<14}{measure.value:.3f}{beside}"
