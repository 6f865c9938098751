"""A site's collection + a trained generator -> the generator brought to that site, which may face the gate."""

from __future__ import annotations

from prefect import flow

from medgan.records import AdaptRequest, CohortRecipe, CollectionSnapshot, TrainedModel, TrainOutcome
from tasks.cohort import admit_cohort, prepare_cohort
from tasks.train import adapt_generator


@flow(name="adapt")
def adapt(
    snapshot: CollectionSnapshot, recipe: CohortRecipe, base: TrainedModel, adaptation: AdaptRequest
) -> TrainOutcome:
    """Prepare and admit the site's cohort, and adapt a generator of this workspace to its train split.

    The outcome is that of `train`: `synthesize` and `publish` go on from it, and the gate attacks it with the site's
    splits. Fewer than 20 train patients are refused.

    Args:
        snapshot: The state of the site's collection.
        recipe: Which images, in which form (the size of the base), split how.
        base: The generator to start from; it is not changed.
        adaptation: For how long, and with which rank.
    """
    admitted = admit_cohort(prepare_cohort(snapshot, recipe))
    return TrainOutcome(cohort=admitted, model=adapt_generator(base, admitted, adaptation))
