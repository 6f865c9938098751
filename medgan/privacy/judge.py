"""The tests G1, G2, G4, G5 as pure functions: evidence and limits in, one number with its bound and meaning out.

Three outcomes each. *Passed*: the upper bound is within the limit. *Failed*: the estimate is beyond the limit and
chance does not explain it, or the lower bound is beyond it. Neither: the limit cannot be decided with these counts; the
bound that was reached is told, and the policy decides what that means, unless the estimate itself is beyond the limit
and chance seldom gives as much: that no policy lets pass.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from medgan.privacy import statistics
from medgan.privacy.evidence import Evidence, Scores
from medgan.privacy.policy import Policy
from medgan.privacy.tail import Tail
from medgan.records import GateTest
from medgan.records.report import P_LEANS

P_DECIDES = 0.01
"""A test fails for good below this p; the policy's own `p_least` is for G2."""
_DIGITS = 6
_LEAST_FOR_A_TREND = 30
_LEAST_VERIFIED = 0.1
"""Share of holdout patients that a verification must recognise at the threshold, or its silence says nothing."""


def copies(correlation: Scores, policy: Policy) -> GateTest:
    """G1: images that are, after registration, a train image."""
    found = int((correlation >= policy.copies.correlation).sum())
    return GateTest(
        test="G1",
        title="exact and near-exact copies",
        value=found,
        limit=policy.copies.most,
        passed=found <= policy.copies.most,
        detail=f"{found} of {len(correlation)} images correlate at least {policy.copies.correlation} with a "
        "train image after shift, flip, rotation and zoom",
    )


def tail(hits: int, images: int, scale: Tail, policy: Policy) -> GateTest:
    """G2: how many more images lie in the tail than fresh real images would."""
    expected = scale.above / (scale.calibrated + 1)
    p_value = statistics.tail_p_value(hits, images, calibrated=scale.calibrated, above=scale.above)
    upper = max(0.0, statistics.upper_rate(hits, images) - expected)
    bad = p_value < policy.tail.p_least
    passed = upper <= policy.tail.excess_most and not bad
    return GateTest(
        test="G2",
        title="tail of copies, excess rate (95 % upper)",
        value=round(upper, _DIGITS),
        estimate=round(hits / images - expected, _DIGITS),
        p_value=round(p_value, _DIGITS),
        limit=policy.tail.excess_most,
        passed=passed,
        conclusive=passed or bad,
        detail=f"{hits} of {images} images beyond the threshold, {expected * images:.1f} expected of fresh real "
        f"images, rank p {p_value:.2g} over {scale.calibrated} calibration scores",
    )


def reidentification(evidence: Evidence, policy: Policy) -> GateTest:
    """G3: are more images taken for a train patient than fresh images of other patients are, at 0.1 % false ones?

    Decides only where the verification is shown to see: of holdout-2 patients, whom it did not learn from, it must
    recognise one in ten.
    """
    rate = policy.membership.false_positive_rate
    title = f"re-identification of a patient, true positives at {rate:.1%} false ones, excess (95 % upper)"
    limit = policy.membership.true_positive_excess_most
    if "E3" not in evidence.synthetic.bands:
        return GateTest(
            test="G3",
            title=title,
            value=1.0,
            limit=limit,
            passed=False,
            conclusive=False,
            detail="too few patients have two images to learn what stays the same in a person",
        )
    strangers, images = evidence.calibration.bands["E3"], evidence.synthetic_images
    threshold, above = statistics.tail_threshold(strangers, quantile=policy.tail.quantile)
    hits = int((evidence.synthetic.bands["E3"] >= threshold).sum())
    expected = above / (len(strangers) + 1)
    p_value = statistics.tail_p_value(hits, images, calibrated=len(strangers), above=above)
    upper = max(0.0, statistics.upper_rate(hits, images) - expected)
    seen, tried = int((evidence.same_patient >= threshold).sum()), len(evidence.same_patient)
    sees = tried > 0 and seen / tried >= _LEAST_VERIFIED
    bad = p_value < P_DECIDES and hits / images - expected > limit
    passed = sees and upper <= limit
    return GateTest(
        test="G3",
        title=title,
        value=round(upper, _DIGITS),
        estimate=round(hits / images - expected, _DIGITS),
        p_value=round(p_value, _DIGITS),
        limit=limit,
        passed=passed,
        conclusive=passed or bad,
        detail=f"{hits} of {images} images are taken for a train patient, {expected * images:.1f} expected of fresh "
        f"real images, rank p {p_value:.2g}; at that threshold {seen} of {tried} holdout patients are recognised in "
        "another image of theirs",
    )


def membership(evidence: Evidence, policy: Policy, *, seed: int, isolated: bool = False) -> tuple[GateTest, ...]:
    """G4: can a train image be told from a fresh one by what lies near it among the synthetic images?

    With `isolated`, G6: the same about the most isolated images of both sides. Where others less isolated had to fill
    up, nothing passes: too few are like those of train.
    """
    tests = []
    filled = isolated and _filled(evidence)
    test, of = ("G6", "isolated records: ") if isolated else ("G4", "")
    for name, title in (("nearest", "nearest synthetic image"), ("ratio", "density ratio")):
        members, others = _a_score_a_patient(evidence, name, isolated=isolated)
        estimate, p_value = statistics.auc(members, others), statistics.auc_p_value(members, others)
        lower, upper = statistics.auc_bounds(members, others, seed=seed)
        most = policy.membership.auc_most
        passed = upper <= most and not filled
        bad = estimate > most and (p_value < P_DECIDES or (lower > most and p_value < P_LEANS))
        tests.append(
            GateTest(
                test=test,
                title=f"{of}membership by {title}, AUC (95 % upper)",
                value=round(upper, _DIGITS),
                estimate=round(estimate, _DIGITS),
                p_value=round(p_value, _DIGITS),
                limit=most,
                passed=passed,
                conclusive=passed or bad,
                detail=f"AUC {estimate:.3f} ({lower:.3f} to {upper:.3f}), "
                f"{len(members)} members, {len(others)} others, rank p {p_value:.2g}; "
                f"{statistics.auc_seen(len(members), len(others)):.3f} would be seen nine times in ten"
                f"{_isolation(evidence) if isolated else ''}",
            )
        )
        if not isolated:  # with a twentieth of the images no rate of 0.1 % can be told
            tests.append(_true_positives(members, others, title, policy))
            tests.append(_against_members(members, estimate, p_value, title, policy, seed=seed))
    return tuple(tests)


def _as_isolated(evidence: Evidence) -> int:
    """How many of the others are as far from train as its isolated images are from the rest of it."""
    return int((evidence.reach_others <= evidence.reach[evidence.isolated_train].max()).sum())


def _filled(evidence: Evidence) -> bool:
    """Whether less isolated others had to fill up."""
    return _as_isolated(evidence) < int(evidence.isolated_others.sum())


def _isolation(evidence: Evidence) -> str:
    """What share of each side G6 looked at, in words."""
    train, others, alike = evidence.isolated_train, evidence.isolated_others, _as_isolated(evidence)
    filled = f", filled up to {others.sum():,} with the next: too few to pass" if _filled(evidence) else ""
    return (
        f"; the most isolated {train.mean():.1%} of {len(train):,} train images, "
        f"and the {alike:,} of {len(others):,} others as isolated{filled}"
    )


def _a_score_a_patient(evidence: Evidence, attack: str, *, isolated: bool) -> tuple[Scores, Scores]:
    """Scores of members and others by an attack: a patient's is the largest of its images'."""
    sides = []
    trend = _trend(evidence, attack) if isolated and _filled(evidence) else 0.0
    for scores, reach, patients, chosen in (
        (evidence.members[attack], evidence.reach, evidence.member_patients, evidence.isolated_train),
        (evidence.others[attack], evidence.reach_others, evidence.other_patients, evidence.isolated_others),
    ):
        rows = chosen if isolated else np.ones(len(scores), bool)
        sides.append(statistics.patient_maximum((scores - trend * reach)[rows], patients[rows]))
    return sides[0], sides[1]


def _trend(evidence: Evidence, attack: str) -> float:
    """What isolation alone makes of a score: its slope by reach, so that others who fill up stand for isolated ones.

    A difference of similarities grows with the distance of everything, a ratio of distances does not. The slope is that
    of the train images that are not isolated: what those that are leak is not in it.
    """
    rest = ~evidence.isolated_train
    if attack == "ratio" or rest.sum() < _LEAST_FOR_A_TREND:
        return 0.0
    return float(np.polyfit(evidence.reach[rest], evidence.members[attack][rest], 1)[0])


def _against_members(
    members: Scores, estimate: float, p_value: float, title: str, policy: Policy, *, seed: int
) -> GateTest:
    """The attack's AUC beside the same attack told to tell members from members, which nobody can."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x636F6E]))
    order = rng.permutation(len(members))
    control = statistics.auc(members[order[::2]], members[order[1::2]])
    gap = abs(estimate - 0.5) - abs(control - 0.5)
    passed = gap <= policy.membership.control_gap_most
    return GateTest(
        test="G4",
        title=f"membership by {title}, AUC beyond a member-only control",
        value=round(gap, _DIGITS),
        estimate=round(gap, _DIGITS),
        p_value=round(p_value, _DIGITS),
        limit=policy.membership.control_gap_most,
        passed=passed,
        conclusive=passed or p_value < P_DECIDES,
        detail=f"AUC {estimate:.3f} against {control:.3f} between two random halves of the members",
    )


def _true_positives(members: Scores, others: Scores, title: str, policy: Policy) -> GateTest:
    """TPR at a low FPR, less that FPR."""
    rate = policy.membership.false_positive_rate
    threshold, above = statistics.tail_threshold(others, quantile=1 - rate)
    hits = int((members >= threshold).sum())
    expected = above / (len(others) + 1)
    p_value = statistics.tail_p_value(hits, len(members), calibrated=len(others), above=above)
    upper = max(0.0, statistics.upper_rate(hits, len(members)) - expected)
    passed = upper <= policy.membership.true_positive_excess_most
    return GateTest(
        test="G4",
        title=f"membership by {title}, true positives at {rate:.1%} false ones, excess (95 % upper)",
        value=round(upper, _DIGITS),
        estimate=round(hits / len(members) - expected, _DIGITS),
        p_value=round(p_value, _DIGITS),
        limit=policy.membership.true_positive_excess_most,
        passed=passed,
        conclusive=passed
        or (p_value < P_DECIDES and hits / len(members) - expected > policy.membership.true_positive_excess_most),
        detail=f"{hits} of {len(members)} members beyond the score that {above} of {len(others)} others reach, "
        f"rank p {p_value:.2g}",
    )


def isolated_tail(evidence: Evidence, scale: Tail, in_tail: npt.NDArray[np.bool_], policy: Policy) -> GateTest:
    """G6: images `in_tail` whose nearest train image is one of the isolated, against fresh real images."""
    images = evidence.synthetic_images
    found = int((in_tail & evidence.isolated_train[evidence.synthetic.index]).sum())
    calibrated = int(((scale.own >= scale.threshold) & evidence.isolated_train[evidence.calibration.index]).sum())
    p_value = statistics.tail_p_value(found, images, calibrated=scale.calibrated, above=calibrated + 1)
    upper = max(0.0, statistics.upper_rate(found, images) - calibrated / scale.calibrated)
    bad = p_value < policy.tail.p_least
    passed = upper <= policy.tail.excess_most and not bad
    return GateTest(
        test="G6",
        title="isolated records: tail of copies, excess rate (95 % upper)",
        value=round(upper, _DIGITS),
        estimate=round(found / images - calibrated / scale.calibrated, _DIGITS),
        p_value=round(p_value, _DIGITS),
        limit=policy.tail.excess_most,
        passed=passed,
        conclusive=passed or bad,
        detail=f"{found} of {images} images lie in the tail beside one of {int(evidence.isolated_train.sum())} "
        f"isolated train images; {calibrated} of {scale.calibrated} calibration images do",
    )


def authenticity(evidence: Evidence, policy: Policy) -> GateTest:
    """G5: share of images nearer to a train image than its nearest fellow, less that share of fresh real images."""
    made_hits, made, fresh_hits, fresh = evidence.authentic
    rates = made_hits / made, fresh_hits / fresh
    gap = rates[0] - rates[1]
    error = np.sqrt(rates[0] * (1 - rates[0]) / made + rates[1] * (1 - rates[1]) / fresh)
    upper, lower = gap + 1.645 * error, gap - 1.645 * error
    passed = bool(upper <= policy.authenticity.gap_most)
    return GateTest(
        test="G5",
        title="authenticity gap (95 % upper)",
        value=round(float(upper), _DIGITS),
        estimate=round(float(gap), _DIGITS),
        p_value=round(1 - NormalDist().cdf(float(gap / max(error, 1e-9))), _DIGITS),
        limit=policy.authenticity.gap_most,
        passed=passed,
        conclusive=passed or bool(lower > policy.authenticity.gap_most),
        detail=f"inauthentic: {rates[0]:.3f} of {made} synthetic, {rates[1]:.3f} of {fresh} fresh real images",
    )
