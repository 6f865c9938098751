"""Training as a run of its own deployment, so that a GPU is held for as long as it trains and no longer."""

from __future__ import annotations

from typing import cast

from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from medgan.errors import PrivacyRefused, StoreUnavailable, TrainingDiverged, ValidationFailed
from medgan.records import CohortRecipe, CollectionSnapshot, TrainOutcome, TrainRequest
from tasks import runtime

_DEPLOYMENT = "train/train"


@runtime.step("train elsewhere", retries=1)
def train_elsewhere(snapshot: CollectionSnapshot, recipe: CohortRecipe, request: TrainRequest) -> TrainOutcome:
    """Start a run of the train deployment, wait for it, and read its outcome from the shared store."""
    run = cast(
        "FlowRun",
        run_deployment(
            _DEPLOYMENT,
            parameters={
                "snapshot": snapshot.model_dump(mode="json"),
                "recipe": recipe.model_dump(mode="json"),
                "training": request.model_dump(mode="json"),
            },
            timeout=None,
            poll_interval=5,
        ),
    )
    state = run.state
    if state is None or not state.is_completed():
        what = "nothing" if state is None else state.name
        for verdict in (TrainingDiverged, PrivacyRefused, ValidationFailed):  # to wait or to retry changes none of them
            if state is not None and verdict.__name__ in (state.message or ""):
                raise verdict(f"the training run ended with a verdict ({verdict.__name__}): its own page says more")
        raise StoreUnavailable(f"the training run ended as {what}: its own page says why; a new one resumes it")
    return TrainOutcome.model_validate(state.result())
