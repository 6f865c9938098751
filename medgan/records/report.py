"""Records about measured quality and privacy, and the verdict that binds them to bytes."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from medgan.records.base import Handle, Name, Record, Sha256, nothing


class Measure(Record):
    """One number beside what it should be compared with."""

    name: str
    value: float
    reference: float | None = Field(default=None, description="The floor, or the same measure on real data.")
    reference_name: str = ""
    better: str = Field(default="lower", pattern="^(lower|higher|closer)$")
    count: int = Field(default=0, ge=0, description="Synthetic samples behind the number.")


class QualityReport(Record):
    """Headline measures; the whole report lies beside the synthetic cohort."""

    synthetic: Handle
    cohort: Handle
    pixel_sha256: Sha256
    masks_sha256: Sha256 | None = Field(default=None, exclude_if=nothing, description="Of its masks, where there are.")
    encoder_sha256: Sha256
    measures: tuple[Measure, ...]
    report_sha256: Sha256 = Field(description="Digest of quality.json.")


class Verdict(StrEnum):
    """What the gate may say."""

    CLEARED = "cleared"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"


P_LEANS = 0.05
"""Chance that explains an estimate beyond its limit: without it one honest night in five of 500 patients would lean."""


class GateTest(Record):
    """One test of the gate with its number, its limit and what it means."""

    test: str
    title: str
    value: float
    limit: float
    estimate: float | None = Field(default=None, description="The likeliest number, where `value` is its upper bound.")
    p_value: float | None = Field(default=None, description="How likely as much is where nothing leaks, where asked.")
    passed: bool
    conclusive: bool = True
    detail: str = ""

    @property
    def adverse(self) -> bool:
        """Undecided, but the likeliest number is beyond its limit, and chance seldom is: nobody may call that safe."""
        if self.conclusive or self.estimate is None or self.p_value is None:
            return False
        return self.estimate > self.limit and self.p_value < P_LEANS


class PrivacyReport(Record):
    """Evidence of the attacks on one synthetic cohort; the whole report lies beside it."""

    synthetic: Handle
    cohort: Handle
    pixel_sha256: Sha256
    labels_sha256: Sha256
    masks_sha256: Sha256 | None = Field(default=None, exclude_if=nothing, description="Of its masks, where there are.")
    gate: int = Field(ge=1, description="Generation of the gate's tests: an older one's verdict is given anew.")
    policy: Name
    policy_sha256: Sha256
    verdict: Verdict
    tests: tuple[GateTest, ...]
    not_tested: tuple[str, ...] = ()
    dropped: int = Field(default=0, ge=0, description="Near copies found in earlier rounds, dropped and redrawn.")
    rounds: int = Field(default=0, ge=0, description="How often rows of this cohort were redrawn for the gate.")
    redraw: tuple[int, ...] = Field(
        default=(), description="Rows to draw again before the gate looks once more; empty when that is over."
    )
    report_sha256: Sha256 = Field(description="Digest of privacy.json.")


class SyntheticCohortRef(Record):
    """The bytes a verdict is about."""

    synthetic: Handle
    pixel_sha256: Sha256
    labels_sha256: Sha256
    masks_sha256: Sha256 | None = Field(default=None, exclude_if=nothing)


class ClearedCohort(Record):
    """A synthetic cohort that the gate cleared. A pointer, not a lock: `publish` re-reads the reports."""

    synthetic: SyntheticCohortRef
    quality_sha256: Sha256
    privacy_sha256: Sha256
    policy: Name
    policy_sha256: Sha256
