"""The night in a few lines: printed on a terminal, and the first thing on the run's page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from medgan.records import GateTest, Measure, NightReport
from tasks import page, runtime

_HEADLINES = {
    "frechet": "Fréchet",
    "coverage": "coverage",
    "spectrum_db": "spectrum, dB",
    "tstr_auc": "TSTR AUC",
    "tstr_balanced_accuracy": "TSTR accuracy",
}
"""Measures of the quality report that the summary shows, and what it calls them."""


@runtime.step("summarise night", retries=0)
def summarise(report: NightReport) -> str:
    """Write the summary and the image grid to the run's page; returns the text."""
    text = render(report)
    page.text(key="night", markdown=f"```\n{text}\n```", description="The night in a few lines.")
    for number, picture in enumerate(previews(report)):
        page.picture(
            key="grid" if number == 0 else f"grid-{number + 1}",
            address=f"data:image/{picture.suffix[1:]};base64,{base64.b64encode(picture.read_bytes()).decode()}",
            description=f"Synthetic images of this version: {picture.stem}.",
        )
    return text


def render(report: NightReport) -> str:
    """The summary as plain text, every number from a record."""
    ingest, scan = report.ingest.ingest, report.ingest.scan
    model, made, release = report.training.model, report.synthesis.synthetic, report.release
    privacy, zones = report.synthesis.privacy, runtime.zones()
    registry = zones.registry_address
    trust = zones.keys / "pipeline.pub"
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(ingest.quarantined.items()))
    lines = [
        f"night {report.night.number} of {report.night.dataset}",
        f"  read           {scan.files:,} files, {scan.instances:,} instances, {scan.studies:,} studies",
        f"  de-identified  {ingest.stored:,} stored, {ingest.known:,} known already (profile {ingest.profile})",
        f"  quarantined    {sum(ingest.quarantined.values()):,}{f' ({reasons})' if reasons else ''}",
        f"  labels         {ingest.labels_joined:,} joined, {ingest.labels_unmatched:,} unmatched",
        f"  trained        {model.kimg:g} kimg in {model.seconds:.0f} s; patients: {_splits(report)}",
        f"  synthesised    {made.images:,} images ({_counts(made.class_counts)})",
        *(f"  {_measure(measure)}" for measure in report.synthesis.quality.measures if measure.name in _HEADLINES),
        f"  gate           {privacy.verdict.value} by {len(privacy.tests)} tests (policy {privacy.policy})",
        *(f"    {_test(test)}" for test in _telling(privacy.tests)),
        f"published {release.name}@{release.version}  {release.images:,} images, {release.bytes / 1e6:.1f} MB",
        f"  catalogue      {registry}/index.html",
        f"  whole reports  {zones.synthetic / 'cohorts' / made.synthetic}/{{quality,privacy}}.html",
        f"  pull it        medgan pull {release.name}@{release.version} --registry {registry} --trust {trust}",
    ]
    return "\n".join(lines)


def previews(report: NightReport) -> list[Path]:
    """The version's preview pictures, one a class."""
    folder = runtime.zones().registry / report.release.name / report.release.version / "preview"
    return sorted(path for path in folder.glob("*") if path.suffix in {".png", ".webp"})


def _splits(report: NightReport) -> str:
    patients = report.training.cohort.cohort.patients
    return ", ".join(f"{count:,} {split}" for split, count in sorted(patients.items(), key=lambda item: -item[1]))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def _measure(measure: Measure) -> str:
    beside = "" if measure.reference is None else f"  ({measure.reference_name} {measure.reference:.3f})"
    return f"{_HEADLINES[measure.name]:<15}{measure.value:.3f}{beside}"


def _telling(tests: Sequence[GateTest]) -> list[GateTest]:
    """The first test of each group, and every one that failed or could not decide."""
    seen: set[str] = set()
    chosen = []
    for test in tests:
        if test.test not in seen or not (test.passed and test.conclusive):
            chosen.append(test)
        seen.add(test.test)
    return chosen


def _test(test: GateTest) -> str:
    verdict = "" if test.passed else ", FAILED" if test.conclusive else ", not decided with this many patients"
    return f"{test.test:<4}{test.title}: {test.value:.4g} (limit {test.limit:g}{verdict})"
