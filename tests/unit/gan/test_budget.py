from __future__ import annotations

import numpy as np
import pytest

from medgan.errors import IntegrityError, PrivacyRefused
from medgan.gan import budget
from medgan.gan.accountant import Ledger, Steps
from medgan.gan.private import Noise
from medgan.settings import Zones

NOISE = Noise(sigma=2.0, rate=0.05, count=400)
ONE = Ledger([Steps(2.0, 0.05, 400)]).epsilon(1e-5)
TWO = Ledger([Steps(2.0, 0.05, 800)]).epsilon(1e-5)


@pytest.fixture
def zones(tmp_path):
    return Zones.under(tmp_path)


def enter(zones, run: str, patients: range, **changes):
    values = {"model": "mo-" + "0" * 32, "noise": NOISE, "delta": 1e-5, "total_epsilon": 100.0, "zones": zones}
    people = np.array([f"pt-{number}" for number in patients], dtype=object)
    return budget.reserve("main", run=run * 32, patients=people, **(values | changes))


def test_a_run_is_entered_once_however_often_it_resumes(zones):
    assert enter(zones, "a", range(50)).epsilon == ONE
    assert enter(zones, "a", range(50)).epsilon == ONE
    assert enter(zones, "b", range(50)).epsilon == TWO


@pytest.mark.parametrize("noise", [Noise(sigma=1.9, rate=0.05, count=400), Noise(sigma=2.0, rate=0.05, count=500)])
def test_a_run_does_not_resume_with_another_noise_than_it_reserved(zones, noise):
    enter(zones, "a", range(50))
    with pytest.raises(IntegrityError, match="reserved"):
        enter(zones, "a", range(50), noise=noise)
    with pytest.raises(IntegrityError, match="reserved"):
        enter(zones, "a", range(51))


def test_only_the_trainings_that_a_patient_took_part_in_are_added_up(zones):
    enter(zones, "a", range(50))
    assert enter(zones, "b", range(50, 90)).epsilon == ONE
    assert enter(zones, "c", range(49, 60)).epsilon == TWO  # 49 and 50 to 59 took part twice


def test_a_patient_who_left_the_collection_is_still_counted(zones):
    for run in "abc":
        enter(zones, run, range(50))
    assert enter(zones, "d", range(100, 120)).epsilon == Ledger([Steps(2.0, 0.05, 1200)]).epsilon(1e-5)


def test_a_refused_run_enters_nothing(zones):
    enter(zones, "a", range(50))
    with pytest.raises(PrivacyRefused, match=rf"from epsilon {ONE:.3f} to {TWO:.3f}"):
        enter(zones, "b", range(50), total_epsilon=(ONE + TWO) / 2)
    assert budget.spent("main", delta=1e-5, zones=zones).epsilon == ONE


def test_collections_have_budgets_of_their_own(zones):
    enter(zones, "a", range(50))
    assert budget.spent("other", delta=1e-5, zones=zones).epsilon == 0


def test_a_broken_entry_is_no_zero(zones):
    enter(zones, "a", range(50))
    (zones.pseudonymised / "budget" / "main" / f"{'a' * 32}.patients").write_bytes(b"")
    with pytest.raises(IntegrityError, match="budget"):
        budget.spent("main", delta=1e-5, zones=zones)


def test_the_ledger_names_no_patient(zones):
    enter(zones, "a", range(50))
    for path in (zones.pseudonymised / "budget").rglob("*"):
        if path.is_file():
            assert b"pt-" not in path.read_bytes()
