"""Admission of a cohort: facts, suite, verdict. The only constructor of `ValidatedCohort`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from medgan.cohort import layout, planes, read, stored
from medgan.cohort.read import Cohort
from medgan.collection import durable, store
from medgan.collection import read as collection
from medgan.collection import table as tables
from medgan.errors import InvalidRequest, ValidationFailed
from medgan.records import CohortSnapshot, ValidatedCohort, canonical_json
from medgan.settings import Zones
from medgan.validation import drift, expectations, rules, sources, statistics, suites
from medgan.validation.expectations import Finding
from medgan.validation.rules import Severity

VALIDATED = "validated.json"
FINDINGS = "findings.json"


def admit(cohort: CohortSnapshot, *, zones: Zones, site: Path | None = None) -> ValidatedCohort:
    """Admit a cohort, or stop the run. Findings, statistics and Data Docs lie beside the cohort either way.

    Of volumes the middle slices are looked at. `site` is a TOML file on top of the suites (default:
    `MEDGAN_VALIDATION_FILE`, where that is set). Admitting a cohort again under the same suite returns the same record
    without evaluating anything.

    Raises:
        ValidationFailed: a rule of severity stop failed; the message names rules and counts.
        IntegrityError: the cohort is not what its digest says.
        InvalidRequest: the collection no longer holds the state that the cohort was prepared from.
    """
    whole = read.load(cohort, zones=zones)
    loaded = replace(whole, images=planes.middle(whole.images))  # every rule is about planes
    folder = layout.folder(cohort.cohort, zones=zones)
    images = statistics.of_cohort(loaded)
    suite = rules.with_site(suites.cohort_suite(frozenset(images.columns)), site or _site_file())
    admitted = _admitted(folder, cohort, rules.digest(suite))
    if admitted is not None:
        return admitted
    facts = gather(loaded, images, zones=zones)
    with durable.replaced_folder(folder / layout.DATA_DOCS) as docs:
        findings = expectations.run(suite, facts, title=cohort.cohort, data_docs=docs)
    durable.write_bytes(folder / layout.STATISTICS, tables.to_parquet(images))
    durable.write_bytes(folder / FINDINGS, canonical_json([asdict(finding) for finding in findings]))
    _stop_on_failure(cohort.cohort, findings)
    validated = ValidatedCohort(
        cohort=cohort,
        suite_sha256=rules.digest(suite),
        statistics_sha256=tables.digest(images),
        expectations=len(findings),
        warnings=tuple(_sentence(finding) for finding in findings if not finding.passed),
    )
    durable.write_bytes(folder / VALIDATED, validated.canonical())
    drift.accept(loaded, zones=zones)
    return validated


def gather(cohort: Cohort, images: pd.DataFrame, *, zones: Zones) -> dict[str, pd.DataFrame]:
    """All facts that the cohort suite is about; `images` are `statistics.of_cohort(cohort)`."""
    reference = drift.accepted(cohort.snapshot, zones=zones)
    return {
        suites.IMAGES: images,
        suites.CLASSES: statistics.of_classes(cohort),
        suites.LOOKS: drift.class_facts(cohort, reference),
        suites.DRIFT: drift.distributions(cohort, images, reference, zones=zones),
        suites.SOURCES: sources.facts(_source_rows(cohort, zones)),
    }


def _source_rows(cohort: Cohort, zones: Zones) -> pd.DataFrame:
    """Rows of the collection that the cohort's images came from."""
    name, _, table_sha256 = cohort.snapshot.collection_snapshot.partition("@")
    commits = store.log(name, zones=zones)
    snapshot = next((one.snapshot for one in commits if one.snapshot.table_sha256 == table_sha256), None)
    if snapshot is None:
        raise InvalidRequest(
            f"collection {name} no longer holds what cohort {cohort.snapshot.cohort} came from: prepare it again"
        )
    of_image = ["series_key"] if cohort.snapshot.recipe.volumes else ["instance_key", "frame"]
    return collection.table(snapshot, zones=zones).merge(cohort.table[of_image])


def _site_file() -> Path | None:
    named = os.environ.get("MEDGAN_VALIDATION_FILE")
    return Path(named) if named else None


def _admitted(folder: Path, cohort: CohortSnapshot, suite_sha256: str) -> ValidatedCohort | None:
    validated = stored.record(folder / VALIDATED, ValidatedCohort)
    if validated is None:
        return None
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
