"""Run a suite with great-expectations over frames of facts, and keep its Data Docs.

Only facts come here (numbers, booleans, pseudonymous instance keys), so complete results are kept. Analytics are
switched off before the import.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medgan.validation.rules import Rule, Severity, Suite

KEY = "instance_key"
MOST_KEYS = 1000
"""Failing images named in a result; the count is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule found. `failing` counts rows, `keys` names the first of them where rows are images."""

    rule: str
    severity: Severity
    says: str
    passed: bool
    failing: int
    rows: int
    keys: tuple[str, ...]


def run(suite: Suite, facts: Mapping[str, pd.DataFrame], *, title: str, data_docs: Path | None = None) -> list[Finding]:
    """Evaluate every rule on the facts it is about; writes Data Docs below `data_docs` where given."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations, at import and in use
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_pandas(title)
        findings = [
            finding
            for about in sorted({rule.about for rule in suite})
            for finding in _run_about(
                context, source, about, [rule for rule in suite if rule.about == about], facts[about]
            )
        ]
        if data_docs is not None:
            context.add_data_docs_site("local", _site(data_docs))
            context.build_data_docs(site_names=["local"])
    order = {rule.name: number for number, rule in enumerate(suite)}
    return sorted(findings, key=lambda finding: order[finding.rule])


def _run_about(context: Any, source: Any, about: str, rules: Sequence[Rule], facts: pd.DataFrame) -> list[Finding]:
    """Evaluate the rules about one frame of facts."""
    import great_expectations as gx

    batch = source.add_dataframe_asset(about).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(about, expectations=[_expectation(rule) for rule in rules]))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=about, data=batch, suite=suite))
    validation = definition.run(batch_parameters={"dataframe": facts}, result_format=_result_format(facts))
    by_name = {rule.name: rule for rule in rules}
    return [_finding(by_name[_name_of(outcome)], outcome, len(facts)) for outcome in validation.results]


def _expectation(rule: Rule) -> Any:
    import great_expectations as gx

    kind = getattr(gx.expectations, rule.expectation)
    severity = "critical" if rule.severity is Severity.STOP else "warning"
    return kind(
        column=rule.column,
        **dict(rule.arguments),
        severity=severity,
        meta={"rule": rule.name},
        description=f"{rule.name}: {rule.says}",
    )


def _name_of(outcome: Any) -> str:
    name: str = outcome.expectation_config.meta["rule"]
    return name


def _result_format(facts: pd.DataFrame) -> dict[str, Any]:
    if KEY not in facts:
        return {"result_format": "BASIC"}
    return {"result_format": "COMPLETE", "unexpected_index_column_names": [KEY], "return_unexpected_index_query": False}


def _finding(rule: Rule, outcome: Any, rows: int) -> Finding:
    found = outcome.result or {}
    keys = sorted({row[KEY] for row in found.get("unexpected_index_list") or ()})
    return Finding(
        rule=rule.name,
        severity=rule.severity,
        says=rule.says,
        passed=bool(outcome.success),
        failing=int(found.get("unexpected_count") or 0),
        rows=rows,
        keys=tuple(keys[:MOST_KEYS]),
    )


def _site(folder: Path) -> Any:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }
