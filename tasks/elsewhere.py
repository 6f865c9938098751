"""Training as a run of its own deployment, so that a GPU is held for as long as it trains and no longer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from medgan.errors import (
    InvalidRequest,
    MedganError,
    PrivacyRefused,
    StoreUnavailable,
    TrainingDiverged,
    ValidationFailed,
)
from medgan.records import (
    CohortRecipe,
    CollectionSnapshot,
    TrainOutcome,
    TrainRequest,
    canonical_json,
    sha256_hex,
)
from tasks import runtime

_DEPLOYMENT = "train/train"
_MOST_DEATHS = 3
_VERDICTS = (TrainingDiverged, PrivacyRefused, ValidationFailed)
"""What neither waiting nor another try changes."""


class TrainingCancelled(MedganError):
    """A person cancelled the training run: it is not started again, and the night that waits for it ends."""

    kind = "cancelled"


@runtime.step("train elsewhere", retries=3)
def train_elsewhere(snapshot: CollectionSnapshot, recipe: CohortRecipe, request: TrainRequest) -> TrainOutcome:
    """Start a run of the train deployment, wait for it, and read its outcome from the shared store.

    A run that died is followed by another, which resumes its training. Who waits may die too, or lose the server: tried
    again, this waits for the run that is under way, because two that train at once would write one model.
    """
    given = {"snapshot": snapshot, "recipe": recipe, "training": request}
    parameters = {name: record.model_dump(mode="json") for name, record in given.items()}
    ours = f"{flow_run.id}-{sha256_hex(canonical_json(parameters))[:16]}"
    for deaths in range(_MOST_DEATHS):
        state = _state(parameters, f"{ours}-{deaths}")
        with suppress(StoreUnavailable):
            return _outcome(state)
    return _outcome(_state(parameters, f"{ours}-{_MOST_DEATHS}"))


def _state(parameters: dict[str, Any], key: str) -> State | None:
    """How the run of this key ended; it is started unless it stands."""
    try:
        run = run_deployment(_DEPLOYMENT, parameters=parameters, timeout=None, poll_interval=5, idempotency_key=key)
    except ObjectNotFound:
        message = (
            f"this server has no deployment {_DEPLOYMENT}: python -m flows deploy, or train in the night's own process"
        )
        raise InvalidRequest(message) from None
    except httpx.HTTPError as error:
        message = f"the server went away while a run of {_DEPLOYMENT} was waited for ({type(error).__name__})"
        raise StoreUnavailable(message) from None
    return cast("FlowRun", run).state


def _outcome(state: State | None) -> TrainOutcome:
    if state is not None and state.is_completed():
        return TrainOutcome.model_validate(state.result())
    if state is not None and state.is_cancelled():
        raise TrainingCancelled("the training run was cancelled by a person; the next night goes on with it")
    for verdict in _VERDICTS:
        if state is not None and verdict.__name__ in (state.message or ""):
            raise verdict(f"the training run ended with a verdict ({verdict.__name__}): its own page says more")
    ended = "without a state" if state is None else f"as {state.name}"
    raise StoreUnavailable(f"the training run ended {ended}: its own page says why; another one resumes it")
