"""The only door to publishing: everything is read again from the store, because a record is a pointer, not a lock."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from medgan.cohort import synthetic as made
from medgan.errors import IntegrityError, PrivacyRefused
from medgan.privacy import attack
from medgan.records import (
    ClearedCohort,
    PrivacyReport,
    QualityReport,
    Record,
    SyntheticCohort,
    SyntheticCohortRef,
    Verdict,
    sha256_hex,
)
from medgan.settings import Zones

R = TypeVar("R", bound=Record)
_QUALITY, _QUALITY_RECORD = "quality.json", "quality-record.json"


def clear(synthetic: SyntheticCohort, quality: QualityReport, privacy: PrivacyReport, *, zones: Zones) -> ClearedCohort:
    """The cleared cohort, when the stored evidence about the stored bytes says so.

    Raises:
        PrivacyRefused: the verdict is not `cleared`, or there is no evidence.
        IntegrityError: records, reports and images do not belong together.
    """
    made.load(synthetic, zones=zones)  # images and labels are what their record says
    home = made.folder(synthetic.synthetic, zones=zones)
    if not (home / attack.RECORD).is_file() or not (home / attack.REPORT).is_file():
        raise PrivacyRefused("there is no privacy report beside this cohort: run the attacks first")
    _same(privacy, _stored(home / attack.RECORD, PrivacyReport), home / attack.REPORT, synthetic)
    _same(quality, _stored(home / _QUALITY_RECORD, QualityReport), home / _QUALITY, synthetic)
    if (privacy.gate, privacy.labels_sha256) != (attack.GATE, synthetic.labels_sha256):
        raise PrivacyRefused(
            "the verdict is an older gate's, or about another table of attributes: run the attacks again"
        )
    if privacy.verdict is not Verdict.CLEARED or not privacy.tests:
        raise PrivacyRefused(_why(privacy))
    return ClearedCohort(
        synthetic=SyntheticCohortRef(
            synthetic=synthetic.synthetic,
            pixel_sha256=synthetic.pixel_sha256,
            labels_sha256=synthetic.labels_sha256,
            masks_sha256=synthetic.masks_sha256,
        ),
        quality_sha256=quality.report_sha256,
        privacy_sha256=privacy.report_sha256,
        policy=privacy.policy,
        policy_sha256=privacy.policy_sha256,
    )


def _stored(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise IntegrityError("a report's record is missing or broken beside the synthetic cohort") from None


def _same(
    given: PrivacyReport | QualityReport,
    stored: PrivacyReport | QualityReport,
    report: Path,
    synthetic: SyntheticCohort,
) -> None:
    """Given record, stored record, report bytes and cohort must be one."""
    if given != stored:
        raise IntegrityError("the report given is not the one that stands beside the synthetic cohort")
    if not report.is_file() or sha256_hex(report.read_bytes()) != stored.report_sha256:
        raise IntegrityError("a report's bytes are not what its record says: measure again")
    about = (stored.synthetic, stored.pixel_sha256, stored.masks_sha256)
    if about != (synthetic.synthetic, synthetic.pixel_sha256, synthetic.masks_sha256):
        raise IntegrityError("a report speaks of other bytes than this synthetic cohort's")


def _why(privacy: PrivacyReport) -> str:
    """One sentence with the numbers that decided."""
    failed = [test for test in privacy.tests if not test.passed and test.conclusive]
    adverse = [test for test in privacy.tests if test.adverse]
    worst = failed or adverse or [test for test in privacy.tests if not test.conclusive]
    numbers = "; ".join(f"{test.test} {test.title}: {test.value:.4g} against {test.limit:.4g}" for test in worst)
    told = numbers or "too few holdout patients, or a required test was not run"
    return f"policy {privacy.policy} says {privacy.verdict.value}: {told}. Nothing is published"
