"""An admitted cohort to a generator."""

from __future__ import annotations

from medgan.gan import train
from medgan.records import TrainedModel, TrainRequest, ValidatedCohort
from tasks import runtime


@runtime.step("train generator", retries=1)
def train_generator(cohort: ValidatedCohort, request: TrainRequest) -> TrainedModel:
    """Train, or resume where a killed run stopped."""
    with runtime.progress("train generator") as report:
        model = train.train(
            cohort,
            request,
            zones=runtime.zones(),
            on_tick=lambda tick: report(int(tick.kimg * 1000), int(tick.total_kimg * 1000)),
        )
    runtime.log("trained", model=model.model, kimg=model.kimg, seconds=round(model.seconds))
    return model
