"""Collection to an admitted cohort."""

from __future__ import annotations

from medgan.cohort import prepare
from medgan.records import CohortRecipe, CohortSnapshot, CollectionSnapshot, ValidatedCohort
from medgan.validation import admit
from tasks import runtime


@runtime.step("prepare cohort")
def prepare_cohort(snapshot: CollectionSnapshot, recipe: CohortRecipe) -> CohortSnapshot:
    """Select, resample and split by patient."""
    prepared = prepare.prepare(snapshot, recipe, zones=runtime.zones())
    runtime.log("prepared", cohort=prepared.cohort, images=prepared.images, **prepared.patients)
    return prepared


@runtime.step("validate cohort", retries=0)
def admit_cohort(prepared: CohortSnapshot) -> ValidatedCohort:
    """Run the admission suites; a failed one stops the night."""
    admitted = admit.admit(prepared, zones=runtime.zones())
    runtime.log("admitted", cohort=prepared.cohort, expectations=admitted.expectations, warnings=len(admitted.warnings))
    return admitted
