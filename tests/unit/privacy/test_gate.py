from __future__ import annotations

import json
import re

import numpy as np
import pytest

from medgan.cohort import synthetic
from medgan.errors import IntegrityError, InvalidRequest, PrivacyRefused
from medgan.gan import budget as ledger
from medgan.gan.private import Noise
from medgan.privacy import attack as attack_module
from medgan.privacy import gate, policy
from medgan.privacy.attack import attack
from medgan.privacy.guarantee import guarantee
from medgan.privacy.views import changed
from medgan.records import Measure, PrivacyBudget, PrivacyReport, QualityReport, Verdict, sha256_hex
from medgan.settings import Zones
from tests.builders.model import described_model


def with_copies(case, change, count):
    """The fresh images with `count` train images, changed, among them."""
    images = np.array(case.fresh)
    rows = np.random.default_rng(1).permutation(len(case.train))[:count]
    planted = changed(change, (case.train[rows] / 65535).astype(np.float32), np.random.default_rng(2))
    images[:count] = np.round(planted * 65535)
    return case.synthetic(images)


def quality_of(case, made):
    """A measured quality record beside the cohort, as `quality.measure` leaves it."""
    home = synthetic.folder(made.synthetic, zones=case.zones)
    (home / "quality.json").write_bytes(b"{}")
    report = QualityReport(
        synthetic=made.synthetic,
        cohort=made.cohort,
        pixel_sha256=made.pixel_sha256,
        encoder_sha256="0" * 64,
        measures=(Measure(name="frechet", value=1.0),),
        report_sha256=sha256_hex(b"{}"),
    )
    (home / "quality-record.json").write_bytes(report.canonical())
    return report


@pytest.fixture(scope="module")
def cleared(case):
    made = case.synthetic(case.fresh)
    report = attack(made, case.cohort, zones=case.zones, policy="internal")
    return made, quality_of(case, made), report


def test_fresh_images_are_cleared_and_the_clearance_names_the_bytes(case, cleared):
    made, quality, report = cleared
    assert report.verdict is Verdict.CLEARED
    clearance = gate.clear(made, quality, report, zones=case.zones)
    assert clearance.synthetic.pixel_sha256 == made.pixel_sha256
    assert clearance.privacy_sha256 == report.report_sha256


def test_nothing_but_copies_is_refused(case):
    made = case.synthetic(case.train[:300])
    report = attack(made, case.cohort, zones=case.zones, policy="internal")
    assert report.verdict is Verdict.REFUSED
    with pytest.raises(PrivacyRefused, match="300"):
        gate.clear(made, quality_of(case, made), report, zones=case.zones)


@pytest.mark.parametrize("change", ["copy", "noise 5 %", "shift"])
def test_a_few_copies_among_fresh_images_are_refused(case, change):
    made = with_copies(case, change, 6)
    report = attack(made, case.cohort, zones=case.zones, policy="internal")
    assert report.verdict is Verdict.REFUSED
    with pytest.raises(PrivacyRefused):
        gate.clear(made, quality_of(case, made), report, zones=case.zones)


def test_strict_does_not_clear_what_so_few_patients_cannot_show(case):
    made = case.synthetic(case.fresh[:200])
    report = attack(made, case.cohort, zones=case.zones, policy="strict")
    assert any(not test.conclusive for test in report.tests)
    assert report.verdict is not Verdict.CLEARED
    with pytest.raises(PrivacyRefused, match="strict"):
        gate.clear(made, quality_of(case, made), report, zones=case.zones)


def test_a_forged_report_does_not_open_the_gate(case):
    made = case.synthetic(case.train[:250])
    report = attack(made, case.cohort, zones=case.zones, policy="internal")
    quality = quality_of(case, made)
    passed = tuple(test.model_copy(update={"passed": True}) for test in report.tests)
    forged = report.model_copy(update={"verdict": Verdict.CLEARED, "tests": passed})
    with pytest.raises(IntegrityError):
        gate.clear(made, quality, forged, zones=case.zones)


def test_a_report_about_other_bytes_does_not_open_the_gate(case, cleared):
    made, _, report = cleared
    other = case.synthetic(case.fresh[::-1].copy())
    home = synthetic.folder(other.synthetic, zones=case.zones)
    for name in ("privacy.json", "privacy-record.json"):
        (home / name).write_bytes((synthetic.folder(made.synthetic, zones=case.zones) / name).read_bytes())
    with pytest.raises(IntegrityError):
        gate.clear(other, quality_of(case, other), report, zones=case.zones)


@pytest.mark.parametrize("change", [{"gate": 1}, {"labels_sha256": "0" * 64}])
def test_an_older_gate_or_another_table_clears_nothing_and_is_judged_anew(case, cleared, change):
    made, _, report = cleared
    record = synthetic.folder(made.synthetic, zones=case.zones) / "privacy-record.json"
    stored = record.read_bytes()
    old = report.model_copy(update=change)
    record.write_bytes(old.canonical())
    with pytest.raises(PrivacyRefused, match="run the attacks again"):
        gate.clear(made, quality_of(case, made), old, zones=case.zones)
    assert attack_module._finished(record.parent, made, policy.load("internal")) is None
    record.write_bytes(stored)
    assert attack_module._finished(record.parent, made, policy.load("internal")) == report


def test_without_evidence_nothing_is_cleared(case, cleared):
    _, _, report = cleared
    made = case.synthetic(case.fresh[:100])
    with pytest.raises(PrivacyRefused, match="no privacy report"):
        gate.clear(made, quality_of(case, made), report, zones=case.zones)


def test_a_second_run_finds_the_report_and_a_fresh_one_makes_the_same_bytes(case, cleared):
    made, _, report = cleared
    home = synthetic.folder(made.synthetic, zones=case.zones)
    names = ("privacy.json", "privacy.html", "privacy-record.json")
    before = {name: (home / name).read_bytes() for name in names}
    assert attack(made, case.cohort, zones=case.zones, policy="internal") == report
    for name in names:
        (home / name).unlink()
    attack(made, case.cohort, zones=case.zones, policy="internal")
    assert {name: (home / name).read_bytes() for name in names} == before


def test_another_policy_is_another_verdict(case, cleared):
    made, _, report = cleared
    strict = attack(made, case.cohort, zones=case.zones, policy="strict")
    assert strict.policy_sha256 != report.policy_sha256
    assert attack(made, case.cohort, zones=case.zones, policy="internal") == report


def test_the_page_stands_alone_and_shows_no_image(case, cleared):
    made, _, _ = cleared
    page = (synthetic.folder(made.synthetic, zones=case.zones) / "privacy.html").read_text()
    assert "cleared" in page
    assert page.count("<figure>") == 6
    assert not re.search(r"https?:|<script|<img|data:image|url\(", page)


def test_the_report_tells_no_cell_of_fewer_than_eleven_and_no_patient(case, cleared):
    made, _, _ = cleared
    home = synthetic.folder(made.synthetic, zones=case.zones)
    report = json.loads((home / "privacy.json").read_text())
    fresh = report["curves"]["distributions"]["E2"]["fresh"]
    assert all(share == 0 or share * 900 >= 10 for share in fresh)
    assert not re.search(r"(pt|se|in|st)-[0-9a-f]{16}", (home / "privacy.json").read_text())
    assert any("G3" in reason for reason in report["not_tested"])


def test_a_cohort_of_another_model_is_refused(case):
    made = case.synthetic(case.fresh[:64]).model_copy(update={"cohort": "co-" + "1" * 32})
    with pytest.raises(InvalidRequest):
        attack(made, case.cohort, zones=case.zones)


def test_the_record_is_canonical(case, cleared):
    made, _, _ = cleared
    path = synthetic.folder(made.synthetic, zones=case.zones) / "privacy-record.json"
    assert path.read_bytes() == PrivacyReport.model_validate_json(path.read_bytes()).canonical()


@pytest.mark.parametrize(
    ("budget", "passed"),
    [
        (None, False),
        ({"epsilon": 2.5, "delta": 1e-5}, True),
        ({"epsilon": 2.6, "delta": 1e-5}, False),  # the table costs 0.5
        ({"epsilon": 1.5, "delta": 1e-5, "spent_epsilon": 2.4, "trainings": 2}, False),  # and did every night
        ({"epsilon": 2.5, "delta": 1e-5, "spent_epsilon": 3.4, "trainings": 2}, False),
        ({"epsilon": 2.5, "delta": 0.01}, False),
        ({"epsilon": 2.5, "delta": 1e-5, "unit": "image"}, False),
    ],
)
def test_the_dp_policy_asks_the_stored_model_for_its_guarantee(case, cleared, budget, passed):
    made, _, _ = cleared
    spent = None if budget is None else PrivacyBudget(accountant="RDP", **budget)
    described_model(made.model, made.cohort, case.zones, snapshot="builder", privacy=spent)
    (test,) = guarantee(made, policy.load("dp"), 689, zones=case.zones)
    assert not test.passed  # its table of attributes bears no noise
    noisy = PrivacyBudget(epsilon=0.5, delta=1e-5, accountant="analytic Gaussian")
    made = made.model_copy(update={"attribute_privacy": noisy})
    (test,) = guarantee(made, policy.load("dp"), 689, zones=case.zones)
    assert (test.test, test.passed, test.conclusive) == ("G8", passed, True)
    assert guarantee(made, policy.load("strict"), 689, zones=case.zones) == ()
    chosen = made.model_copy(update={"redrawn_from": made.synthetic})
    (test,) = guarantee(chosen, policy.load("dp"), 689, zones=case.zones)
    assert not test.passed  # images were chosen by real ones, which bears no noise


def test_the_ledger_says_what_all_trainings_and_tables_spent(case, cleared, tmp_path):
    made, _, _ = cleared
    zones = Zones.under(tmp_path)
    people = np.array([f"pt-{number}" for number in range(50)], dtype=object)
    noise = {"training": Noise(sigma=2.0, rate=0.05, count=100), "attributes": Noise(sigma=8.0, rate=1.0, count=1)}
    budget = PrivacyBudget(epsilon=1.2, delta=1e-5, accountant="PRV")
    described_model(made.model, made.cohort, zones, privacy=budget)
    made = made.model_copy(update={"attribute_privacy": budget.model_copy(update={"epsilon": 0.5})})
    told = []
    for night in range(3):
        for what in ("training", "attributes"):
            spent = ledger.reserve(
                "main",
                run=sha256_hex(f"{night} {what}".encode())[:32],
                model=made.model,
                noise=noise[what],
                patients=people,
                delta=1e-5,
                total_epsilon=np.inf,
                zones=zones,
                what=what,
            )
        (test,) = guarantee(made, policy.load("dp"), 50, zones=zones)
        assert test.value == max(1.2, spent.epsilon)
        assert f"{night + 1} trainings and {night + 1} tables" in test.detail
        told.append(test.value)
    assert told[0] < told[1] < told[2]
