"""A release and local cases to a downstream model's gain."""

from __future__ import annotations

from medgan.client import load
from medgan.personal import fit
from medgan.records import LocalCases, PersonalReport, PersonalRequest
from tasks import page, runtime


@runtime.step("personalise")
def personalise(release: str, cases: LocalCases, request: PersonalRequest) -> PersonalReport:
    """Pull and verify the release from this workspace's registry, and compare ways to train for the cases."""
    zones = runtime.zones()
    dataset = load.load(
        release, registry=zones.registry_address, trust=zones.keys / "pipeline.pub", cache=zones.published / "cache"
    )
    with runtime.progress("personalise") as progress:
        report = fit.personalise(dataset, cases, request, zones=zones, on_progress=progress)
    runtime.log("personalised", release=report.release, cases=cases.cases, test_images=report.test_images)
    page.text("personal-headline", "What the release gained.", report.headline)
    page.table(
        key="personal-gains",
        description=f"{report.metric} of real + personalised synthetic minus another way; 95 % intervals over seeds.",
        rows=[
            {
                "over": one.over,
                "real cases": one.shots,
                "difference": round(one.mean, 4),
                "from": round(one.low, 4),
                "to": round(one.high, 4),
                "verdict": one.verdict,
            }
            for one in report.gains
        ],
    )
    return report
