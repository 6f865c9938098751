"""A suite is a tuple of rules; a rule is one expectation with a name, a severity and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
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


def digest(suite: Suite) -> str:
    """Hex SHA-256 over every rule of a suite: a change of one limit is another suite."""
    return sha256_hex(canonical_json([asdict(rule) for rule in suite]))


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
