"""An admitted cohort to a generator, or to one that was brought to a site."""

from __future__ import annotations

from medgan.gan import site, train
from medgan.quality import live
from medgan.records import AdaptRequest, TrainedModel, TrainRequest, ValidatedCohort
from tasks import runtime


@runtime.step("train generator", retries=1)
def train_generator(cohort: ValidatedCohort, request: TrainRequest) -> TrainedModel:
    """Train, or resume where a killed run stopped."""
    with runtime.progress("train generator") as report:

        def tell(tick: train.Tick) -> None:
            note = "" if tick.distance is None else f"Fréchet distance {tick.distance:.2f}"
            report(int(tick.kimg * 1000), int(tick.total_kimg * 1000), note)

        model = train.train(cohort, request, zones=runtime.zones(), on_tick=tell, watch=live.in_domain)
    runtime.log("trained", model=model.model, kimg=model.kimg, seconds=round(model.seconds))
    return model


@runtime.step("adapt generator", retries=1)
def adapt_generator(base: TrainedModel, cohort: ValidatedCohort, request: AdaptRequest) -> TrainedModel:
    """Bring a generator to a site's cohort by about 2 % of its parameters."""
    with runtime.progress("adapt generator") as report:
        model = site.adapt_to_site(base, cohort, request, zones=runtime.zones(), on_progress=report)
    runtime.log("adapted", model=model.model, base=base.model, kimg=model.kimg, seconds=round(model.seconds))
    return model
