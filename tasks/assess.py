"""A synthetic cohort to evidence."""

from __future__ import annotations

from medgan.privacy import attack
from medgan.quality import measure
from medgan.records import PrivacyReport, QualityReport, SyntheticCohort, ValidatedCohort
from tasks import page, runtime


@runtime.step("measure quality")
def measure_quality(synthetic: SyntheticCohort, cohort: ValidatedCohort) -> QualityReport:
    """Compare with real images, every number beside its floor."""
    report = measure.measure(synthetic, cohort, zones=runtime.zones())
    runtime.log("measured", synthetic=synthetic.synthetic, **{m.name: round(m.value, 4) for m in report.measures})
    page.table(
        key="quality",
        description="Synthetic images against real ones.",
        rows=[
            {"measure": m.name, "value": round(m.value, 4), m.reference_name or "reference": m.reference}
            for m in report.measures
        ],
    )
    return report


@runtime.step("attack privacy")
def attack_privacy(synthetic: SyntheticCohort, cohort: ValidatedCohort, policy: str) -> PrivacyReport:
    """Attack the cohort as the policy says, and prove that the attacks are not blind."""
    report = attack.attack(synthetic, cohort, zones=runtime.zones(), policy=policy)
    runtime.log("attacked", synthetic=synthetic.synthetic, policy=report.policy, verdict=report.verdict.value)
    page.table(
        key="privacy-gate",
        description=f"Verdict under policy {report.policy}: {report.verdict.value}.",
        rows=[
            {
                "test": f"{t.test} {t.title}",
                "value": round(t.value, 4),
                "limit": t.limit,
                "passed": "yes" if t.passed else "NO",
                "conclusive": "yes" if t.conclusive else "no",
            }
            for t in report.tests
        ],
    )
    return report
