"""A generator to a synthetic cohort."""

from __future__ import annotations

from medgan.records import CohortSpec, PrivacyReport, SyntheticCohort, TrainedModel
from medgan.synthesis import generate, redraw
from tasks import runtime


@runtime.step("generate cohort", retries=4)
def generate_cohort(model: TrainedModel, spec: CohortSpec) -> SyntheticCohort:
    """Draw the cohort on Dask, one block a shard."""
    with runtime.progress("generate cohort") as report:
        made = generate.generate(
            model,
            spec,
            zones=runtime.zones(),
            workers=runtime.workers(),
            scheduler=runtime.scheduler(),
            on_progress=report,
        )
    runtime.log("generated", synthetic=made.synthetic, images=made.images)
    return made


@runtime.step("redraw copies")
def redraw_copies(made: SyntheticCohort, report: PrivacyReport) -> SyntheticCohort:
    """Draw again the rows that the gate found to be near copies; everything else stays."""
    with runtime.progress("redraw copies") as progress:
        cleaned = redraw.redraw(
            made,
            report.redraw,
            report.rounds + 1,
            zones=runtime.zones(),
            run=generate.Run(workers=runtime.workers(), scheduler=runtime.scheduler(), on_progress=progress),
        )
    runtime.log("redrawn", synthetic=cleaned.synthetic, images=len(report.redraw), attempt=report.rounds + 1)
    return cleaned
