from __future__ import annotations

import numpy as np
import pytest

from medgan.cohort import synthetic
from medgan.errors import InvalidRequest
from medgan.privacy import attack, policy
from medgan.privacy.attack import Cleaning, _cleaning
from medgan.records import GateTest, PrivacyReport, Verdict

LIMITS = policy.load("internal")


def result(test: str, *, passed: bool, conclusive: bool = True) -> GateTest:
    return GateTest(test=test, title=test, value=0, limit=0, passed=passed, conclusive=conclusive)


COPIED = (result("G1", passed=False), result("G2", passed=True), result("G4", passed=False, conclusive=False))


@pytest.fixture
def made(case):
    """A cohort of 300 images; the policy lets one in a thousand be dropped, so a larger one is pretended."""
    return case.synthetic(case.fresh).model_copy(update={"images": 3000})


def test_a_few_copies_are_to_be_redrawn(case, made):
    assert _cleaning(made, [4, 9], COPIED, LIMITS, zones=case.zones) == Cleaning(redraw=(4, 9))
    assert _cleaning(made, [], COPIED[1:], LIMITS, zones=case.zones) == Cleaning()


def test_more_than_the_policy_allows_is_a_refusal(case, made):
    assert _cleaning(made, [1, 2, 3, 4], COPIED, LIMITS, zones=case.zones).redraw == ()


def test_a_cohort_that_is_refused_for_more_than_copies_is_not_cleaned_up(case, made):
    for other in ("G2", "G4", "G9"):
        tests = (COPIED[0], result(other, passed=False))
        assert _cleaning(made, [4], tests, LIMITS, zones=case.zones).redraw == ()


def test_under_differential_privacy_no_image_is_chosen_by_real_ones(case, made):
    lenient = LIMITS.model_copy(update={"differential_privacy": policy.load("dp").differential_privacy})
    assert _cleaning(made, [4], COPIED, lenient, zones=case.zones).redraw == ()


def test_what_was_dropped_before_counts(case, made):
    source = case.synthetic(case.fresh[:250])
    home = synthetic.folder(source.synthetic, zones=case.zones)
    earlier = PrivacyReport(
        synthetic=source.synthetic,
        cohort=source.cohort,
        pixel_sha256=source.pixel_sha256,
        labels_sha256=source.labels_sha256,
        gate=attack.GATE,
        policy="internal",
        policy_sha256=LIMITS.digest,
        verdict=Verdict.REFUSED,
        tests=COPIED,
        dropped=0,
        redraw=(7, 8),
        report_sha256="0" * 64,
    )
    (home / attack.RECORD).write_bytes(earlier.canonical())
    cleaned = made.model_copy(update={"redrawn_from": source.synthetic})
    assert _cleaning(cleaned, [], COPIED[1:], LIMITS, zones=case.zones) == Cleaning(dropped=2, rounds=1)
    assert _cleaning(cleaned, [3], COPIED, LIMITS, zones=case.zones) == Cleaning(dropped=2, rounds=1, redraw=(3,))
    assert _cleaning(cleaned, [3, 4], COPIED, LIMITS, zones=case.zones).redraw == ()


def test_the_gate_names_the_copied_rows_and_refuses_until_they_are_gone(case, tmp_path):
    images = np.concatenate([case.fresh, case.fresh[:0]]).copy()
    images[17] = case.train[5]
    text = (policy.resources.files("medgan.privacy") / "policies" / "internal.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(text.replace("dropped_most = 0.001", "dropped_most = 0.005"))
    copied = case.synthetic(images)
    report = attack.attack(copied, case.cohort, zones=case.zones, policy=str(own))
    assert (report.verdict, report.redraw, report.rounds) == (Verdict.REFUSED, (17,), 0)
    images[17] = case.fresh[17]
    cleaned = case.synthetic(images[:-1]).model_copy(update={"redrawn_from": copied.synthetic})
    (synthetic.folder(cleaned.synthetic, zones=case.zones) / synthetic.RECORD).write_bytes(cleaned.canonical())
    report = attack.attack(cleaned, case.cohort, zones=case.zones, policy=str(own))
    assert (report.verdict, report.redraw, report.dropped, report.rounds) == (Verdict.CLEARED, (), 1, 1)
    assert "1 were dropped and redrawn" in next(test.detail for test in report.tests if test.test == "G1")


def test_a_policy_cannot_let_one_in_fifty_be_dropped(tmp_path):
    text = (policy.resources.files("medgan.privacy") / "policies" / "internal.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(text.replace("dropped_most = 0.001", "dropped_most = 0.02"))
    with pytest.raises(InvalidRequest, match="dropped_most"):
        policy.load(str(own))
