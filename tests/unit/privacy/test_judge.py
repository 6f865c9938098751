from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.spatial import cKDTree

from medgan.errors import InvalidRequest
from medgan.privacy import evidence, judge, policy, selftest
from medgan.privacy.evidence import similarity_to_train
from medgan.privacy.tail import calibrate
from medgan.privacy.views import CHANGES, changed

STRICT, INTERNAL = policy.load("strict"), policy.load("internal")


@pytest.fixture(scope="module")
def scale(honest):
    return calibrate(honest.calibration, honest.calibration_patients, STRICT)


def test_images_that_copy_nobody_are_as_authentic_as_the_holdout_however_few_there_are(honest):
    made_hits, made, fresh_hits, fresh = honest.authentic
    assert made_hits / made - fresh_hits / fresh < 0.03  # 0.075 where the embedding has seen the real ones only


def test_fresh_images_pass_what_can_be_decided(honest, scale):
    tests = [
        judge.copies(honest.synthetic.correlation, INTERNAL),
        judge.tail(int(scale.hits(honest.synthetic).sum()), 300, scale, INTERNAL),
        *judge.membership(honest, INTERNAL, seed=0),
        judge.authenticity(honest, INTERNAL),
        judge.isolated_tail(honest, scale, scale.hits(honest.synthetic), INTERNAL),
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


def planted_in(evidence, case, scale):
    return selftest.plant(evidence, case.real, scale, scale.hits(evidence.synthetic), INTERNAL, seed=0)


def test_the_self_test_refuses_every_planted_change(case, honest, scale):
    planted = planted_in(honest, case, scale)
    assert [result.change for result in planted if not result.refused] == []
    assert all(test.passed for test in selftest.verdict(planted, INTERNAL))


def test_the_share_found_is_told_of_a_hundred_of_each_kind_however_few_one_in_a_hundred_are(case, honest, scale):
    planted = planted_in(honest, case, scale)
    assert {result.count for result in planted} == {100}
    assert {result.planted for result in planted} == {max(INTERNAL.self_test.planted_least, 3)}  # of 300 images
    blend = next(result for result in planted if result.change == selftest.BLEND)
    told = selftest.verdict(planted, INTERNAL)[1].detail
    low, high = (float(value) for value in re.search(r"\((\d+) to (\d+) %", told).groups())
    assert low < 100 * blend.recall <= high


def test_a_blind_gate_fails_its_self_test_for_good(case, honest, scale):
    blind = dataclasses.replace(scale, threshold=1e9)
    tests = selftest.verdict(planted_in(honest, case, blind), INTERNAL)
    assert all(not test.passed and test.conclusive for test in tests)
    assert "not refused" in tests[0].detail


def test_real_images_filed_twice_calibrate_nothing(case, honest):
    assert honest.calibration.correlation.max() < 0.995
    assert honest.control.correlation.max() < 0.995
    assert honest.twins >= 0


def test_copies_of_isolated_people_alone_are_found(case, honest, scale):
    rows = np.flatnonzero(honest.isolated_train)[:20]
    copied = similarity_to_train(case.real.train[rows], case.real, honest.embedding)
    told = dataclasses.replace(honest, synthetic=copied, synthetic_images=len(rows))
    test = judge.isolated_tail(told, scale, scale.hits(told.synthetic), STRICT)
    assert not test.passed
    assert test.conclusive


def few_members(honest, scores):
    """The evidence as if there were as few members as `scores`, whose images score like that; all are isolated."""
    return dataclasses.replace(
        honest,
        members=dict.fromkeys(honest.members, np.asarray(scores)),
        member_patients=np.arange(len(scores)).astype(object),
        isolated_train=np.ones(len(scores), bool),
        reach=np.full(len(scores), honest.reach.max()),
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
    [
        (1000, 2000, (50, 100)),
        (200, 1000, (30, 150)),
        (10_000, 100, (500, 30)),
        (10_000, 40, (500, 20)),
        (1, 1, (1, 1)),
    ],
)
def test_the_isolated_of_train_are_no_more_for_few_holdouts_and_the_others_as_far_or_enough(members, others, isolated):
    sides = evidence._isolated(*((np.arange(count) + 1) / count for count in (members, others)))
    assert tuple(side.sum() for side in sides) == isolated
    assert all(side[0] for side in sides)


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Points around a middle, a few of them far out, instead of images; how far apart they lie instead of E2."""

    train: np.ndarray
    holdouts: tuple[np.ndarray, np.ndarray]
    made: np.ndarray

    @classmethod
    def drawn(cls, seed, *, train, holdout, made):
        rng = np.random.default_rng(seed)
        ends = np.cumsum([train, holdout, holdout])
        points = rng.normal(size=(ends[-1] + made, 8)) * np.exp(rng.normal(0, 0.4, (ends[-1] + made, 1)))
        parts = np.split(points, ends)
        return cls(train=parts[0], holdouts=(parts[1], parts[2]), made=parts[3])

    def told(self, honest):
        """The evidence as if it were about this cloud, as far as membership goes."""
        (first, second), others = self.holdouts, np.concatenate(self.holdouts)
        by_turns = np.arange(len(self.train)) % 2 == 0
        reference = np.where(by_turns, _distance(self.train, first), _distance(self.train, second))
        reference_others = np.concatenate([_distance(first, second), _distance(second, first)])
        return isolation(
            honest,
            (-_distance(self.train, self.train, 2), -_distance(others, self.train)),
            _attacks(_distance(self.train, self.made), reference),
            _attacks(_distance(others, self.made), reference_others),
        )


def _distance(points, to, rank=1):
    return cKDTree(to).query(points, k=[rank])[0][:, 0]


def _attacks(to_made, to_reference):
    return {"nearest": to_reference - to_made, "ratio": np.log(to_reference / to_made)}


def isolation(honest, reach, members, others):
    """The evidence with other nearness to train, scores of members and scores of others, each a patient."""
    chosen = evidence._isolated(*reach)
    return dataclasses.replace(
        honest,
        members=members,
        others=others,
        member_patients=np.arange(len(reach[0])).astype(object),
        other_patients=np.arange(len(reach[1])).astype(object),
        reach=reach[0],
        reach_others=reach[1],
        isolated_train=chosen[0],
        isolated_others=chosen[1],
    )


@pytest.mark.parametrize("sizes", [(200, 600, 200), (1000, 50, 1000)], ids=["few train", "few others"])
def test_isolated_people_of_an_honest_set_are_not_refused_however_few_one_side_has(honest, sizes):
    clouds = [Cloud.drawn(seed, train=sizes[0], holdout=sizes[1], made=sizes[2]) for seed in range(12)]
    tests = [judge.membership(cloud.told(honest), INTERNAL, seed=0, isolated=True) for cloud in clouds]
    assert [test.detail for pair in tests for test in pair if test.conclusive and not test.passed] == []
    assert sum(test.adverse for pair in tests for test in pair) <= 2  # p < 0.05 is one in twenty by chance
    assert all(np.mean([pair[attack].estimate for pair in tests]) < 0.53 for attack in (0, 1))


def test_a_leak_of_the_isolated_twentieth_is_found_beside_a_hundred_others(honest):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        reach, reach_others, scores, others = (rng.normal(size=count) for count in (10_000, 100, 10_000, 100))
        scores[np.argsort(reach)[:500]] += 1
        told = isolation(
            honest, (reach, reach_others), dict.fromkeys(honest.members, scores), dict.fromkeys(honest.others, others)
        )
        tests = judge.membership(told, INTERNAL, seed=0, isolated=True)
        assert all(not test.passed and test.conclusive for test in tests)
        assert "the most isolated 5.0% of 10,000 train images" in tests[0].detail
        assert "filled up to 30" in tests[0].detail


def test_holdouts_whose_images_are_all_in_train_as_well_are_refused_in_a_sentence(case):
    people = dataclasses.replace(
        case.real, holdout_2=case.real.train[:20], holdout_2_patients=np.arange(20).astype(object)
    )
    with pytest.raises(InvalidRequest, match="every image of a holdout has a twin in train"):
        evidence.collect(case.real.holdout_1[:60], people, seed=0)
