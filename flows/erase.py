"""A patient withdraws: out of the collection, its history and every cohort."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from medgan.records import Erasure, Handle, Name
from tasks import runtime
from tasks.upkeep import erase_patient

GraceDays = Annotated[int, Field(ge=0, le=365)]


@flow(name="erase")
def erase(patient: Handle, collection: Name = "main", grace_days: GraceDays = 0) -> Erasure:
    """Forget one patient, and list the generators and releases that were made with the images.

    Args:
        patient: The pseudonym, pt-...; `medgan collection erase` finds it from the original id, which never comes here.
        collection: The collection to erase from.
        grace_days: Keep the collection's history for so many days before the patient is gone from it too.
    """
    runtime.give_up_when_it_dies_too_often()
    return erase_patient(patient, collection, grace_days)
