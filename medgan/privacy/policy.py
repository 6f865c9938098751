"""Policies: the limits a verdict is made from, as versioned TOML files. A site writes its own and names its path."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgan.errors import InvalidRequest
from medgan.records import Name, canonical_json, sha256_hex

_Rate = Field(gt=0, lt=1)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Copies(_Part):
    """G1: pixel correlation after registration that makes a copy, how many may be left, and what share dropped.

    Copies are dropped and redrawn, and the cohort is tested again, as long as no more than `dropped_most` of its images
    go that way; a site's file that does not say allows none.
    """

    correlation: float = Field(gt=0.9, lt=1)
    most: int = Field(ge=0)
    dropped_most: float = Field(default=0.0, ge=0, le=0.01)


class Tail(_Part):
    """G2: quantile of calibration scores beyond which a score is a hit, least p, most excess rate of hits."""

    quantile: float = _Rate
    p_least: float = _Rate
    excess_most: float = _Rate


class Membership(_Part):
    """G4 and G3: most AUC, most true-positive excess at the false-positive rate, most AUC beyond the control's."""

    auc_most: float = Field(gt=0.5, lt=1)
    false_positive_rate: float = _Rate
    true_positive_excess_most: float = _Rate
    control_gap_most: float = Field(default=0.02, gt=0, lt=0.5)


class Authenticity(_Part):
    """G5: most gap between synthetic and fresh real images."""

    gap_most: float = _Rate


class Attributes(_Part):
    """G7: most attack risk and least patients in a cell of the released table."""

    risk_most: float = _Rate
    cell_least: int = Field(ge=2)


class DifferentialPrivacy(_Part):
    """G8: most epsilon; delta may be at most 1 / (10 x train patients), and the unit must be the patient."""

    epsilon_most: float = Field(gt=0)


class SelfTest(_Part):
    """G9: share and least count of planted copies, least recall of each kind, and of blends."""

    planted_share: float = _Rate
    planted_least: int = Field(ge=1)
    recall_least: float = _Rate
    blend_recall_least: float = _Rate


class Policy(_Part):
    """Everything a verdict depends on besides the evidence."""

    name: Name
    version: int = Field(ge=1)
    purpose: str = Field(min_length=1)
    least_holdout_patients: int = Field(ge=10)
    inconclusive_may_pass: bool
    approval: bool = Field(
        default=False, description="A data-protection approver must sign what is published under it."
    )
    required: tuple[str, ...] = Field(min_length=1)
    copies: Copies
    tail: Tail
    membership: Membership
    authenticity: Authenticity
    attributes: Attributes
    self_test: SelfTest
    differential_privacy: DifferentialPrivacy | None = None

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the policy's content."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))


def names() -> tuple[str, ...]:
    """Policies that ship with medgan."""
    folder = resources.files("medgan.privacy") / "policies"
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def load(name: str) -> Policy:
    """A policy by name, or by the path of a site's own TOML file.

    Raises:
        InvalidRequest: no such policy, or one that does not state every limit in its range.
    """
    shipped = resources.files("medgan.privacy") / "policies" / f"{name}.toml"
    try:
        if name in names():
            text = shipped.read_text(encoding="utf-8")
        elif name.endswith(".toml"):
            text = Path(name).read_text(encoding="utf-8")
        else:
            raise InvalidRequest(f"there is no such policy; choose one of {', '.join(names())} or name a .toml file")
        return Policy.model_validate(tomllib.loads(text))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise InvalidRequest("the policy file cannot be read as TOML") from None
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise InvalidRequest(f"the policy is not complete or out of range in: {fields}") from None
