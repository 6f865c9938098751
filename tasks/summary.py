"""The night in a few lines: printed on a terminal, and the first thing on the run's page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import PurePosixPath

from medgan.client import registry
from medgan.records import GateTest, Manifest, Measure, NightReport, Release
from tasks import page, runtime

_HEADLINES = {
    "frechet": "Fréchet",
    "coverage": "coverage",
    "spectrum_db": "spectrum, dB",
    "tstr_auc": "TSTR AUC",
    "tstr_balanced_accuracy": "TSTR accuracy",
}
"""Measures of the quality report that the summary shows, and what it calls them."""
_DICE = "dice_of_"


@runtime.step("summarise night")
def summarise(report: NightReport) -> str:
    """Write the summary and the image grid to the run's page; returns the text."""
    text = render(report)
    page.text(key="night", markdown=f"```\n{text}\n```", description="The night in a few lines.")
    for number, (name, picture) in enumerate(previews(report.release)):
        page.picture(
            key="grid" if number == 0 else f"grid-{number + 1}",
            address=f"data:image/{name.suffix[1:]};base64,{base64.b64encode(picture).decode()}",
            description=f"Synthetic images of this version: {name.stem}.",
        )
    return text


def render(report: NightReport) -> str:
    """The summary as plain text, every number from a record."""
    ingest, scan = report.ingest.ingest, report.ingest.scan
    model, made, release = report.training.model, report.synthesis.synthetic, report.release
    privacy, zones = report.synthesis.privacy, runtime.zones()
    address = zones.registry_address
    trust = zones.keys / "pipeline.pub"
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(ingest.quarantined.items()))
    lines = [
        f"night {report.night.number} of {report.night.dataset}",
        f"  read           {scan.files:,} files, {scan.instances:,} instances, {scan.studies:,} studies",
        f"  de-identified  {ingest.stored:,} stored, {ingest.known:,} known already (profile {ingest.profile})",
        f"  quarantined    {sum(ingest.quarantined.values()):,}{f' ({reasons})' if reasons else ''}",
        f"  labels         {ingest.labels_joined:,} joined, {ingest.labels_unmatched:,} unmatched",
        *([f"  masks          {_counts(ingest.masks)}"] if ingest.masks else []),
        f"  trained        {model.kimg:g} kimg in {model.seconds:.0f} s; patients: {_splits(report)}",
        f"  synthesised    {made.images:,} images ({_counts(made.class_counts)})",
        *(f"  {_measure(measure)}" for measure in report.synthesis.quality.measures if _headline(measure)),
        f"  gate           {privacy.verdict.value} by {len(privacy.tests)} tests (policy {privacy.policy})",
        *(f"    {_test(test)}" for test in _telling(privacy.tests)),
        f"published {release.name}@{release.version}  {release.images:,} images, {release.bytes / 1e6:.1f} MB",
        *(["  waits for      its approver: until `medgan approve` clients refuse it"] if release.pending else []),
        f"  catalogue      {address}/index.html",
        f"  whole reports  {zones.synthetic / 'cohorts' / made.synthetic}/{{quality,privacy}}.html",
        f"  pull it        medgan pull {release.name}@{release.version} --registry {address} --trust {trust}",
    ]
    return "\n".join(lines)


def previews(release: Release) -> list[tuple[PurePosixPath, bytes]]:
    """The version's preview pictures, one a class, from wherever it was published."""
    source, where = registry.open_source(runtime.zones().registry_address), f"{release.name}/{release.version}"
    manifest = Manifest.model_validate_json(registry.read_all(source, f"{where}/manifest.json"))
    paths = (PurePosixPath(file.path) for file in manifest.files)
    pictures = [path for path in paths if path.parts[0] == "preview" and path.suffix in {".png", ".webp"}]
    return [(path, registry.read_all(source, f"{where}/{path}")) for path in pictures]


def _splits(report: NightReport) -> str:
    patients = report.training.cohort.cohort.patients
    return ", ".join(f"{count:,} {split}" for split, count in sorted(patients.items(), key=lambda item: -item[1]))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def _headline(measure: Measure) -> bool:
    return measure.name in _HEADLINES or measure.name.startswith(_DICE)


def _measure(measure: Measure) -> str:
    beside = "" if measure.reference is None else f"  ({measure.reference_name} {measure.reference:.3f})"
    called = _HEADLINES.get(measure.name) or f"Dice, {measure.name.removeprefix(_DICE)}"
    return f"{called:<15}{measure.value:.3f}{beside}"


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
