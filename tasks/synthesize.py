"""A generator to a synthetic cohort."""

from __future__ import annotations

from medgan.records import CohortSpec, PrivacyReport, SyntheticCohort, TrainedModel
from medgan.synthesis import dispatch, generate, plan, redraw
from tasks import runtime


@runtime.step("generate cohort", retries=4)
def generate_cohort(model: TrainedModel, spec: CohortSpec) -> SyntheticCohort:
    """Plan the cohort, then draw it on Dask, one block a shard; `MEDGAN_DASK_RESOURCES` says what a block needs."""
    told = plan.plan(model, spec, zones=runtime.zones(), workers=runtime.workers())
    runtime.log("plan", images=told.images, blocks=told.blocks, bytes=told.stored_bytes, seconds=round(told.seconds))
    with runtime.progress("generate cohort") as report:
        made = generate.generate(model, spec, zones=runtime.zones(), run=_run(report))
    runtime.log("generated", synthetic=made.synthetic, images=made.images, redrawn=made.redrawn)
    return made


@runtime.step("redraw copies")
def redraw_copies(made: SyntheticCohort, report: PrivacyReport) -> SyntheticCohort:
    """Draw again the rows that the gate found to be near copies; everything else stays."""
    with runtime.progress("redraw copies") as progress:
        cleaned = redraw.redraw(made, report.redraw, report.rounds + 1, zones=runtime.zones(), run=_run(progress))
    runtime.log("redrawn", synthetic=cleaned.synthetic, images=len(report.redraw), attempt=report.rounds + 1)
    return cleaned


def _run(on_progress: dispatch.OnProgress) -> dispatch.Run:
    """Where this deployment draws."""
    return dispatch.Run(
        workers=runtime.workers(),
        scheduler=runtime.scheduler(),
        resources=runtime.resources(),
        on_progress=on_progress,
    )
