"""G8: the differential-privacy budget behind a synthetic cohort, over all nights."""

from __future__ import annotations

from medgan.cohort import read
from medgan.cohort import stored as records
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
    stored = records.record(path, TrainedModel)
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

    From the ledger, where trainings and tables of attributes are entered before they draw noise. Older versions entered
    no tables: for each of their trainings one like this is added. A table may follow another collection's patients,
    who have a ledger of their own.
    """
    of_table, budget = synthetic.attribute_privacy, model.privacy
    if of_table is None or budget is None:
        return "all nights", _NO_GUARANTEE
    own = model.collection_snapshot.partition("@")[0]
    followed = _collection_followed(synthetic, own, zones=zones)
    if followed is None:
        return "all nights, which cannot be told: the cohort that the table follows is gone", _NO_GUARANTEE
    stated = max(budget.epsilon, budget.spent_epsilon or 0.0)
    entered = ledger.spent(own, delta=budget.delta, zones=zones)
    if entered.tables or followed != own:
        untold, nights = entered.untold, f"all {entered.trainings} trainings and {entered.tables} tables"
        nights += f" and one for each of {untold} trainings from before tables were entered" if untold else ""
    else:
        untold = budget.trainings or 1
        nights = f"all {untold} trainings and as many tables"
    spent = max(stated, entered.epsilon) + untold * of_table.epsilon
    if followed != own:
        there = ledger.spent(followed, delta=of_table.delta, zones=zones)
        untold = there.untold if there.tables else max(1, there.untold)
        spent = max(spent, there.epsilon + untold * of_table.epsilon)
        nights += ", here or on the collection that the table follows"
    return nights, spent


def _collection_followed(synthetic: SyntheticCohort, own: str, *, zones: Zones) -> str | None:
    """The collection whose patients the table of attributes follows; None where that cannot be told any more."""
    like = synthetic.spec.like
    if like is None or like.startswith("site:"):
        return own
    stored = read.record(like, zones=zones)
    return None if stored is None else stored.collection_snapshot.partition("@")[0]
