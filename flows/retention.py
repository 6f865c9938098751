"""What grows by itself is cut by itself: Prefect's database, and a collection's history."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from medgan.records import Name, Retention
from tasks.upkeep import expire_history, forget_runs

Days = Annotated[int, Field(ge=1, le=3650)]


@flow(name="retention")
def retention(collection: Name = "main", keep_runs_days: Days = 90, keep_history_days: Days | None = None) -> Retention:
    """Forget old runs and, where asked, old states of the collection.

    Args:
        collection: The collection whose history is cut.
        keep_runs_days: Runs that ended earlier go from Prefect's database; the manifests keep what they made.
        keep_history_days: Older states of the collection go too, but never the newest; empty keeps them all.
    """
    runs = forget_runs(keep_runs_days)
    states = 0 if keep_history_days is None else expire_history(collection, keep_history_days)
    return Retention(runs=runs, states=states)
