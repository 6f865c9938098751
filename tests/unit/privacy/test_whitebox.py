from __future__ import annotations

import pytest

from medgan.gan.fit import STATE
from medgan.privacy import whitebox
from tests.builders.model import brief_model


@pytest.fixture(scope="module")
def model(case):
    return brief_model(case.cohort, case.zones)


def test_the_discriminator_is_attacked_for_the_record(case, model):
    found = whitebox.attack(model.model, case.cohort, zones=case.zones)["white-box discriminator"]
    assert 0.4 < found["auc"] < 0.6  # a discriminator that saw 128 images knows nobody yet
    assert found["members"] == len(case.train)


def test_the_discriminator_stays_in_the_pseudonymised_zone(case, model):
    state = case.zones.pseudonymised / "models" / model.model / STATE
    assert b'"d/judge.weight"' in state.read_bytes()
    for zone in (case.zones.synthetic, case.zones.published):
        for path in zone.rglob("*"):
            assert not path.is_file() or b"judge.weight" not in path.read_bytes()


def test_without_a_discriminator_there_is_nothing_to_record(case):
    assert whitebox.attack("mo-" + "0" * 32, case.cohort, zones=case.zones) == {}
