"""Generator -> synthetic cohort, with its evidence."""

from __future__ import annotations

from prefect import flow

from medgan.records import CohortSpec, ShippedPolicy, SynthesisOutcome, TrainOutcome
from tasks.assess import attack_privacy, measure_quality
from tasks.synthesize import generate_cohort


@flow(name="synthesize")
def synthesize(trained: TrainOutcome, spec: CohortSpec, policy: ShippedPolicy) -> SynthesisOutcome:
    """Generate a cohort, measure its quality and attack its privacy.

    Args:
        trained: The generator and the cohort it was trained on.
        spec: What to synthesise.
        policy: The privacy policy that the cohort will be judged by.
    """
    made = generate_cohort(trained.model, spec)
    return SynthesisOutcome(
        synthetic=made,
        quality=measure_quality(made, trained.cohort),
        privacy=attack_privacy(made, trained.cohort, policy),
    )
