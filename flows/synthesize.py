"""Generator -> synthetic cohort, with its evidence."""

from __future__ import annotations

from prefect import flow

from medgan.records import CohortSpec, ShippedPolicy, SynthesisOutcome, TrainOutcome
from tasks.assess import attack_privacy, measure_quality
from tasks.synthesize import generate_cohort, redraw_copies


@flow(name="synthesize")
def synthesize(trained: TrainOutcome, spec: CohortSpec, policy: ShippedPolicy) -> SynthesisOutcome:
    """Generate a cohort, attack its privacy, redraw the few near copies that the policy allows, measure its quality.

    Args:
        trained: The generator and the cohort it was trained on.
        spec: What to synthesise.
        policy: The privacy policy that the cohort will be judged by.
    """
    made = generate_cohort(trained.model, spec)
    privacy = attack_privacy(made, trained.cohort, policy)
    while privacy.redraw:  # a few near copies: dropped, redrawn, and the cleaned cohort is tested again
        made = redraw_copies(made, privacy)
        privacy = attack_privacy(made, trained.cohort, policy)
    return SynthesisOutcome(synthetic=made, quality=measure_quality(made, trained.cohort), privacy=privacy)
