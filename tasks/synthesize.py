"""A generator to a synthetic cohort."""

from __future__ import annotations

from medgan.records import CohortSpec, SyntheticCohort, TrainedModel
from medgan.synthesis import generate
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
