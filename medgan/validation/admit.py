"""Admission of a cohort: facts, suite, verdict. The only constructor of `ValidatedCohort`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medgan.cohort import layout, read
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.errors import ValidationFailed
from medgan.records import CohortSnapshot, ValidatedCohort, canonical_json
from medgan.settings import Zones
from medgan.validation import expectations, rules, statistics, suites
from medgan.validation.expectations import Finding
from medgan.validation.rules import Severity

VALIDATED = "validated.json"
FINDINGS = "findings.json"


def admit(cohort: CohortSnapshot, *, zones: Zones) -> ValidatedCohort:
    """Admit a cohort, or stop the run. Findings, statistics and Data Docs lie beside the cohort either way.

    Admitting a cohort again under the same suite returns the same record without evaluating anything.

    Raises:
        ValidationFailed: a rule of severity stop failed; the message names rules and counts.
        IntegrityError: the cohort is not what its digest says.
    """
    loaded = read.load(cohort, zones=zones)
    folder = layout.folder(cohort.cohort, zones=zones)
    facts = {suites.IMAGES: statistics.of_cohort(loaded), suites.CLASSES: statistics.of_classes(loaded)}
    suite = suites.cohort_suite(frozenset(facts[suites.IMAGES].columns))
    admitted = _admitted(folder, cohort, rules.digest(suite))
    if admitted is not None:
        return admitted
    with durable.replaced_folder(folder / layout.DATA_DOCS) as docs:
        findings = expectations.run(suite, facts, title=cohort.cohort, data_docs=docs)
    durable.write_bytes(folder / layout.STATISTICS, tables.to_parquet(facts[suites.IMAGES]))
    durable.write_bytes(folder / FINDINGS, canonical_json([asdict(finding) for finding in findings]))
    _stop_on_failure(cohort.cohort, findings)
    validated = ValidatedCohort(
        cohort=cohort,
        suite_sha256=rules.digest(suite),
        statistics_sha256=tables.digest(facts[suites.IMAGES]),
        expectations=len(findings),
        warnings=tuple(_sentence(finding) for finding in findings if not finding.passed),
    )
    durable.write_bytes(folder / VALIDATED, validated.canonical())
    return validated


def _admitted(folder: Path, cohort: CohortSnapshot, suite_sha256: str) -> ValidatedCohort | None:
    path = folder / VALIDATED
    if not path.is_file():
        return None
    validated = ValidatedCohort.model_validate_json(path.read_bytes())
    return validated if validated.suite_sha256 == suite_sha256 and validated.cohort == cohort else None


def _stop_on_failure(cohort: str, findings: Sequence[Finding]) -> None:
    failed = [finding for finding in findings if not finding.passed and finding.severity is Severity.STOP]
    if failed:
        sentences = "; ".join(_sentence(finding) for finding in failed)
        raise ValidationFailed(
            f"cohort {cohort} failed {len(failed)} of {len(findings)} expectations: {sentences}. "
            f"The failing images are named by key in {FINDINGS} and in the data docs beside the cohort"
        )


def _sentence(finding: Finding) -> str:
    count = f" ({finding.failing:,} of {finding.rows:,})" if finding.rows else ""
    return f"{finding.rule}{count}"
