from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgan.privacy import evidence, judge, policy, selftest
from medgan.privacy.evidence import similarity_to_train
from medgan.privacy.views import CHANGES, changed

STRICT, INTERNAL = policy.load("strict"), policy.load("internal")


@pytest.fixture(scope="module")
def scale(honest):
    return judge.calibrate(honest.calibration, STRICT)


def test_images_that_copy_nobody_are_as_authentic_as_the_holdout_however_few_there_are(honest):
    made_hits, made, fresh_hits, fresh = honest.authentic
    assert made_hits / made - fresh_hits / fresh < 0.03  # 0.075 where the embedding has seen the real ones only


def test_fresh_images_pass_what_can_be_decided(honest, scale):
    tests = [
        judge.copies(honest.synthetic.correlation, INTERNAL),
        judge.tail(int(scale.hits(honest.synthetic).sum()), 300, scale, INTERNAL),
        *judge.membership(honest, INTERNAL, seed=0),
        judge.authenticity(honest, INTERNAL),
        judge.isolated_tail(honest, scale, INTERNAL),
        *judge.membership(honest, INTERNAL, seed=0, isolated=True),
    ]
    assert [test.detail for test in tests if test.conclusive and not test.passed] == []


def test_false_alarms_on_holdout_2_stay_rare(honest, scale):
    assert scale.hits(honest.control).sum() <= 2


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_copies_lie_in_the_tail_however_changed(case, honest, scale, change):
    rng = np.random.default_rng(5)
    rows = rng.permutation(len(case.real.train))[:100]
    near = similarity_to_train(changed(change, case.real.train[rows], rng), case.real, honest.embedding)
    assert scale.hits(near).mean() >= (0.5 if "blend" in change else 0.9)


def test_a_rate_that_so_few_images_cannot_bound_is_not_decided(scale):
    none_found = judge.tail(0, 100, scale, STRICT)
    assert not none_found.passed
    assert not none_found.conclusive
    assert none_found.value > STRICT.tail.excess_most
    assert judge.tail(0, 2048, scale, STRICT).passed


def test_many_hits_fail_for_good(scale):
    many = judge.tail(30, 2048, scale, STRICT)
    assert not many.passed
    assert many.conclusive


def test_a_near_copy_is_counted():
    test = judge.copies(np.array([0.2, 0.9991, 0.998]), STRICT)
    assert (test.value, test.passed) == (1, False)


def test_members_that_stand_out_fail_for_good(honest):
    told = dataclasses.replace(
        honest,
        members={name: scores + 0.2 for name, scores in honest.members.items()},
    )
    assert all(not test.passed and test.conclusive for test in judge.membership(told, STRICT, seed=0))


def test_the_self_test_refuses_every_planted_change(case, honest, scale):
    planted = selftest.plant(honest, case.real, scale, INTERNAL, seed=0)
    assert [result.change for result in planted if not result.refused] == []
    assert all(test.passed for test in selftest.verdict(planted, INTERNAL))


def test_a_blind_gate_fails_its_self_test_for_good(case, honest, scale):
    blind = dataclasses.replace(scale, threshold=1e9)
    tests = selftest.verdict(selftest.plant(honest, case.real, blind, INTERNAL, seed=0), INTERNAL)
    assert all(not test.passed and test.conclusive for test in tests)
    assert "not refused" in tests[0].detail


def test_real_images_filed_twice_calibrate_nothing(case, honest):
    assert honest.calibration.correlation.max() < 0.995
    assert honest.control.correlation.max() < 0.995
    assert honest.twins >= 0


def test_copies_of_isolated_people_alone_are_found(case, honest, scale):
    rows = np.flatnonzero(honest.isolated_train)[:20]
    assert honest.isolated_train.mean() == pytest.approx(honest.isolated_others.mean(), abs=0.01)
    copied = similarity_to_train(case.real.train[rows], case.real, honest.embedding)
    told = dataclasses.replace(honest, synthetic=copied, synthetic_images=len(rows))
    test = judge.isolated_tail(told, scale, STRICT)
    assert not test.passed
    assert test.conclusive


def few_members(honest, scores):
    """The evidence as if there were as few members as `scores`, whose images score like that; all are isolated."""
    return dataclasses.replace(
        honest,
        members=dict.fromkeys(honest.members, np.asarray(scores)),
        member_patients=np.arange(len(scores)).astype(object),
        isolated_train=np.ones(len(scores), bool),
    )


def test_a_lower_bound_beyond_the_limit_fails_however_few_members_there_are(honest):
    beyond = max(scores.max() for scores in honest.others.values())
    (nearest, ratio) = judge.membership(few_members(honest, [beyond + 1] * 2), INTERNAL, seed=0, isolated=True)
    assert all(not test.passed and test.conclusive for test in (nearest, ratio))


@pytest.mark.parametrize(
    ("lowest", "members", "leans"), [(0.32, 12, True), (0.25, 4, False)], ids=["seldom by chance", "by chance as well"]
)
def test_what_is_open_leans_to_a_leak_where_its_estimate_is_beyond_the_limit_and_chance_seldom_is(
    honest, lowest, members, leans
):
    scores = np.quantile(honest.others["nearest"], np.linspace(lowest, 0.99, members))
    told = few_members(honest, scores)
    test = next(t for t in judge.membership(told, INTERNAL, seed=0) if t.title.endswith("image, AUC (95 % upper)"))
    assert test.estimate > test.limit
    assert (test.passed, test.conclusive, test.adverse) == (False, False, leans)


@pytest.mark.parametrize(
    ("members", "others", "isolated"),
    [(1000, 2000, (50, 100)), (200, 1000, (30, 150)), (40, 400, (20, 200)), (1, 1, (1, 1))],
)
def test_the_same_share_of_both_sides_is_isolated_and_enough_where_there_are_few(members, others, isolated):
    sides = evidence._isolated(np.arange(members, dtype=float), np.arange(others, dtype=float))
    assert tuple(side.sum() for side in sides) == isolated
    assert all(side[0] for side in sides)
