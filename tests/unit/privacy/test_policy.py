from __future__ import annotations

from importlib import resources

import pytest

from medgan.errors import InvalidRequest
from medgan.privacy import policy
from medgan.privacy.attack import decide
from medgan.records import GateTest, Verdict


def shipped(name: str) -> str:
    return (resources.files("medgan.privacy") / "policies" / f"{name}.toml").read_text()


def test_strict_has_the_limits_of_the_design():
    strict = policy.load("strict")
    assert (strict.copies.correlation, strict.copies.most) == (0.999, 0)
    assert (strict.tail.quantile, strict.tail.p_least, strict.tail.excess_most) == (0.999, 0.01, 0.005)
    assert (strict.membership.auc_most, strict.membership.true_positive_excess_most) == (0.55, 0.005)
    assert (strict.self_test.planted_share, strict.self_test.recall_least) == (0.01, 0.95)
    assert strict.least_holdout_patients == 500
    assert not strict.inconclusive_may_pass


def test_no_shipped_policy_plants_more_or_refuses_later_than_strict():
    strict = policy.load("strict")
    for name in policy.names():
        other = policy.load(name)
        assert other.self_test.planted_share <= strict.self_test.planted_share
        assert other.tail == strict.tail
        assert "G9" in other.required


def test_a_site_names_its_own_file(tmp_path):
    path = tmp_path / "ours.toml"
    path.write_text(
        shipped("strict")
        .replace('name = "strict"', 'name = "ours"')
        .replace("excess_most = 0.005", "excess_most = 0.001", 1)
    )
    ours = policy.load(str(path))
    assert ours.name == "ours"
    assert ours.digest != policy.load("strict").digest


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda text: text.replace("p_least = 0.01", ""), "tail.p_least"),
        (lambda text: text.replace("auc_most = 0.55", "auc_most = 1.5"), "membership.auc_most"),
        (lambda text: text + "\nsurprise = 1\n", "surprise"),
        (lambda text: text + "[[[", "TOML"),
    ],
)
def test_a_policy_that_leaves_a_limit_open_is_refused(tmp_path, broken, told):
    path = tmp_path / "broken.toml"
    path.write_text(broken(shipped("strict")))
    with pytest.raises(InvalidRequest, match=told):
        policy.load(str(path))


@pytest.mark.parametrize("name", ["nothing", "../strict", "missing.toml"])
def test_an_unknown_policy_is_refused(name):
    with pytest.raises(InvalidRequest):
        policy.load(name)


def outcome(test, *, passed=True, conclusive=True, **told):
    return GateTest(test=test, title=test, value=0, limit=1, passed=passed, conclusive=conclusive, **told)


def run(name, **changes):
    limits = policy.load(name)
    return limits, tuple(outcome(test, **changes.get(test, {})) for test in limits.required)


def test_everything_passed_is_cleared():
    for name in ("strict", "internal"):
        limits, tests = run(name)
        assert decide(tests, limits, holdout_patients=600) is Verdict.CLEARED


def test_one_failure_refuses_under_every_policy():
    for name in ("strict", "internal"):
        limits, tests = run(name, G5={"passed": False})
        assert decide(tests, limits, holdout_patients=600) is Verdict.REFUSED


def test_what_cannot_be_decided_passes_only_where_the_policy_says_so():
    for name, expected in (("strict", Verdict.INCONCLUSIVE), ("internal", Verdict.CLEARED)):
        limits, tests = run(name, G4={"passed": False, "conclusive": False})
        assert decide(tests, limits, holdout_patients=600) is expected


def test_no_policy_lets_pass_what_is_open_and_beyond_the_limit_by_its_best_guess():
    for name in ("strict", "internal"):
        limits, tests = run(name, G4={"passed": False, "conclusive": False, "estimate": 1.01, "p_value": 0.04})
        assert decide(tests, limits, holdout_patients=600) is Verdict.INCONCLUSIVE
    for told in ({"estimate": 0.99, "p_value": 0.04}, {"estimate": 1.01, "p_value": 0.2}):
        limits, tests = run("internal", G4={"passed": False, "conclusive": False, **told})
        assert decide(tests, limits, holdout_patients=600) is Verdict.CLEARED


def test_too_few_patients_or_a_missing_test_are_inconclusive():
    limits, tests = run("strict")
    assert decide(tests, limits, holdout_patients=499) is Verdict.INCONCLUSIVE
    assert decide(tests[:-1], limits, holdout_patients=600) is Verdict.INCONCLUSIVE
