"""Collection -> admitted cohort -> generator."""

from __future__ import annotations

from prefect import flow

from medgan.records import CohortRecipe, CollectionSnapshot, TrainOutcome, TrainRequest
from tasks.cohort import admit_cohort, prepare_cohort
from tasks.train import train_generator


# Stored by reference: a night that trains on another pool reads it from there.
@flow(name="train", persist_result=True, result_serializer="json")
def train(snapshot: CollectionSnapshot, recipe: CohortRecipe, training: TrainRequest) -> TrainOutcome:
    """Prepare a cohort, admit it, and train a generator on its train split.

    Args:
        snapshot: The state of the collection to train on.
        recipe: Which images, in which form, split how.
        training: Which training recipe, for how long.
    """
    admitted = admit_cohort(prepare_cohort(snapshot, recipe))
    return TrainOutcome(cohort=admitted, model=train_generator(admitted, training))
