"""Training as a run of its own deployment, so that a GPU is held for as long as it trains and no longer."""

from __future__ import annotations

from typing import cast

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from medgan.errors import InvalidRequest, PrivacyRefused, StoreUnavailable, TrainingDiverged, ValidationFailed
from medgan.records import CohortRecipe, CollectionSnapshot, TrainOutcome, TrainRequest
from tasks import runtime

_DEPLOYMENT = "train/train"
_VERDICTS = (TrainingDiverged, PrivacyRefused, ValidationFailed)
"""What neither waiting nor another try changes."""


@runtime.step("train elsewhere", retries=3)
def train_elsewhere(snapshot: CollectionSnapshot, recipe: CohortRecipe, request: TrainRequest) -> TrainOutcome:
    """Start a run of the train deployment, wait for it, and read its outcome from the shared store.

    A run that died is followed by another, which resumes its training.
    """
    given = {"snapshot": snapshot, "recipe": recipe, "training": request}
    try:
        run = run_deployment(
            _DEPLOYMENT,
            parameters={name: record.model_dump(mode="json") for name, record in given.items()},
            timeout=None,
            poll_interval=5,
        )
    except ObjectNotFound:
        message = (
            f"this server has no deployment {_DEPLOYMENT}: python -m flows deploy, or train in the night's own process"
        )
        raise InvalidRequest(message) from None
    except httpx.HTTPError as error:
        message = f"the server went away while a run of {_DEPLOYMENT} was waited for ({type(error).__name__})"
        raise StoreUnavailable(message) from None
    return _outcome(cast("FlowRun", run).state)


def _outcome(state: State | None) -> TrainOutcome:
    if state is not None and state.is_completed():
        return TrainOutcome.model_validate(state.result())
    for verdict in _VERDICTS:
        if state is not None and verdict.__name__ in (state.message or ""):
            raise verdict(f"the training run ended with a verdict ({verdict.__name__}): its own page says more")
    ended = "without a state" if state is None else f"as {state.name}"
    raise StoreUnavailable(f"the training run ended {ended}: its own page says why; another one resumes it")
