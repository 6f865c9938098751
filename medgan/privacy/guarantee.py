"""G8: the differential-privacy budget behind a synthetic cohort, over all nights."""

from __future__ import annotations

from medgan.gan import budget as ledger
from medgan.privacy.policy import Policy
from medgan.records import GateTest, SyntheticCohort, TrainedModel
from medgan.settings import Zones

_NO_GUARANTEE = 1e9
"""Stands for an infinite epsilon, which JSON cannot say."""


def guarantee(synthetic: SyntheticCohort, policy: Policy, train_patients: int, *, zones: Zones) -> tuple[GateTest, ...]:
    """G8, where the policy asks for it: the budget that the stored model record states."""
    if policy.differential_privacy is None:
        return ()
    path = zones.pseudonymised / "models" / synthetic.model / "model.json"
    stored = TrainedModel.model_validate_json(path.read_bytes()) if path.is_file() else None
    budget = stored.privacy if stored else None
    most = policy.differential_privacy.epsilon_most
    detail = "the generator carries no guarantee"
    passed = False
    spent = _NO_GUARANTEE
    if stored is not None and budget is not None:
        delta_most = 1 / (10 * train_patients)
        of_table = synthetic.attribute_privacy
        nights, spent = _spent_in_all(stored, synthetic, zones=zones)
        # Each mechanism's delta is held to the limit; what they add up to is told.
        deltas = [budget.delta, *([of_table.delta] if of_table else [])]
        passed = spent <= most and max(deltas) <= delta_most * (1 + 1e-9) and budget.unit == "patient"
        passed = passed and synthetic.redrawn_from is None and synthetic.fidelity is None
        detail = (
            f"epsilon {budget.epsilon:.3g} of this training, "
            + (
                f"{of_table.epsilon:.3g} of its table of attributes"
                if of_table
                else "its table of attributes without any"
            )
            + f", {spent:.3g} of {nights}, at delta {sum(deltas):.2g} in all (each at most {delta_most:.2g}), "
            f"unit {budget.unit}, accountant {budget.accountant}"
        )
        if synthetic.redrawn_from is not None or synthetic.fidelity is not None:
            detail += "; void, because images were drawn again for what real ones say of them"
    return (
        GateTest(
            test="G8",
            title="differential privacy, epsilon over all nights",
            value=spent,
            limit=most,
            passed=passed,
            detail=detail,
        ),
    )


def _spent_in_all(model: TrainedModel, synthetic: SyntheticCohort, *, zones: Zones) -> tuple[str, float]:
    """What the collection's patients spent over all nights, in words and as epsilon.

    From the ledger, where trainings and tables of attributes are entered before they draw noise. Where this table is
    not (an older version made it), as many such tables as trainings are added to what the model states.
    """
    of_table, budget = synthetic.attribute_privacy, model.privacy
    if of_table is None or budget is None:
        return "all nights", _NO_GUARANTEE
    stated = max(budget.epsilon, budget.spent_epsilon or 0.0)
    entered = ledger.spent(model.collection_snapshot.partition("@")[0], delta=budget.delta, zones=zones)
    if entered.tables:
        nights = f"all {entered.trainings} trainings and {entered.tables} tables on the collection"
        return nights, max(stated, entered.epsilon)
    trainings = budget.trainings or 1
    return f"all {trainings} trainings and as many tables", stated + trainings * of_table.epsilon
