"""A suite is a tuple of rules; a rule is one expectation with a name, a severity and a sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from medgan.errors import InvalidRequest
from medgan.records import canonical_json, sha256_hex


class Severity(StrEnum):
    """What a failure does."""

    STOP = "stop"
    WARN = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`expectation` (a class of great_expectations.expectations) over `column` of the facts called `about`."""

    name: str
    about: str
    says: str
    expectation: str
    column: str
    severity: Severity
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an expectation that great-expectations does not know by form."""
        if not self.expectation.startswith("Expect"):
            raise InvalidRequest(f"rule {self.name}: an expectation is named Expect...")


Suite = tuple[Rule, ...]
_ARGUMENTS = frozenset({"min_value", "max_value", "mostly", "value_set"})


def digest(suite: Suite) -> str:
    """Hex SHA-256 over every rule of a suite: a change of one limit is another suite."""
    return sha256_hex(canonical_json([asdict(rule) for rule in suite]))


def with_site(suite: Suite, path: Path | None) -> Suite:
    """`suite` with a site's TOML file on top: `[rules.<name>]` with `severity` (stop, warn, off) and arguments.

    The arguments are those of the expectation, for example `min_value`, `max_value`, `mostly`, `value_set`.

    Raises:
        InvalidRequest: the file is no TOML, or names a rule, severity or argument that there is not.
    """
    if path is None:
        return suite
    try:
        site = tomllib.loads(path.read_text(encoding="utf-8")).get("rules", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise InvalidRequest("the site's validation file cannot be read as TOML: correct or remove it") from None
    unknown = set(site) - {rule.name for rule in suite}
    if unknown:
        raise InvalidRequest(f"the site's validation file names rules that there are not: {', '.join(sorted(unknown))}")
    changed = (_changed(rule, site.get(rule.name, {})) for rule in suite)
    return tuple(rule for rule in changed if rule is not None)


def _changed(rule: Rule, changes: Mapping[str, Any]) -> Rule | None:
    severity = changes.get("severity", rule.severity)
    if severity == "off":
        return None
    arguments = {name: value for name, value in changes.items() if name != "severity"}
    if severity not in set(Severity) or set(arguments) - _ARGUMENTS:
        allowed = ", ".join(sorted(_ARGUMENTS))
        raise InvalidRequest(f"rule {rule.name}: severity is stop, warn or off; arguments are {allowed}")
    return replace(rule, severity=Severity(severity), arguments={**rule.arguments, **arguments})


def always(
    name: str, about: str, column: str, says: str, *, value: bool = True, severity: Severity = Severity.STOP
) -> Rule:
    """Every row's `column` is `value`."""
    return Rule(
        name=name,
        about=about,
        says=says,
        expectation="ExpectColumnValuesToBeInSet",
        column=column,
        severity=severity,
        arguments={"value_set": [value]},
    )


def between(
    name: str,
    about: str,
    column: str,
    says: str,
    *,
    low: float | None = None,
    high: float | None = None,
    mostly: float = 1.0,
    severity: Severity = Severity.STOP,
) -> Rule:
    """At least `mostly` of the rows have `column` in [low, high]; an empty value passes."""
    arguments = {"min_value": low, "max_value": high, "mostly": mostly}
    return Rule(
        name=name,
        about=about,
        says=says,
        expectation="ExpectColumnValuesToBeBetween",
        column=column,
        severity=severity,
        arguments={key: value for key, value in arguments.items() if value is not None},
    )
