"""G8 counts every table of attributes that was told of a patient, whoever entered it and wherever."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medgan.cohort import layout
from medgan.gan import budget as ledger
from medgan.gan.private import Noise
from medgan.privacy import policy
from medgan.privacy.guarantee import guarantee
from medgan.records import (
    CohortRecipe,
    CohortSnapshot,
    CohortSpec,
    PrivacyBudget,
    SyntheticCohort,
    sha256_hex,
)
from medgan.settings import Zones
from tests.builders.model import described_model

PEOPLE = np.array([f"pt-{number}" for number in range(50)], dtype=object)
TRAINING, TABLE = Noise(sigma=2.0, rate=0.05, count=100), Noise(sigma=8.0, rate=1.0, count=1)
BUDGET = PrivacyBudget(epsilon=1.2, delta=1e-5, accountant="PRV")
OTHER = "co-" + "2" * 32


@pytest.fixture
def zones(tmp_path):
    zones = Zones.under(tmp_path)
    described_model("mo-" + "0" * 32, "co-" + "1" * 32, zones, snapshot="main@now", privacy=BUDGET)
    recipe = CohortRecipe(name="xray", modalities=("DX",), class_attribute="finding")
    followed = CohortSnapshot(
        cohort=OTHER,
        recipe=recipe,
        collection_snapshot="elsewhere@now",
        classes=("normal", "pneumonia"),
        images=50,
        patients={"train": 50},
        size_px=32,
        content_sha256="0" * 64,
    )
    folder = layout.folder(OTHER, zones=zones)
    folder.mkdir(parents=True)
    (folder / layout.RECORD).write_bytes(followed.canonical())
    return zones


def synthetic(like=None):
    return SyntheticCohort(
        synthetic="sy-" + "0" * 32,
        model="mo-" + "0" * 32,
        cohort="co-" + "1" * 32,
        spec=CohortSpec(images=10, like=like),
        images=10,
        class_counts={"normal": 10},
        size_px=32,
        pixel_sha256="0" * 64,
        labels_sha256="0" * 64,
        attribute_privacy=BUDGET.model_copy(update={"epsilon": 0.5}),
    )


def enter(zones, name, *, what, collection="main", noise=None):
    return ledger.reserve(
        collection,
        run=sha256_hex(name.encode())[:32],
        model="mo-" + "0" * 32,
        noise=noise or (TRAINING if what == "training" else TABLE),
        patients=PEOPLE,
        delta=1e-5,
        total_epsilon=np.inf,
        zones=zones,
        what=what,
    )


def test_tables_from_before_tables_were_entered_are_not_forgotten_once_one_is(zones):
    for night in ("first", "second"):
        enter(zones, night, what="training")
    for path in (zones.pseudonymised / "budget" / "main").glob("*.json"):  # as versions before tables wrote them
        entry = json.loads(path.read_bytes())
        del entry["what"]
        path.write_text(json.dumps(entry))
    (before,) = guarantee(synthetic(), policy.load("dp"), 50, zones=zones)
    spent = enter(zones, "today", what="attributes")
    (after,) = guarantee(synthetic(), policy.load("dp"), 50, zones=zones)
    assert after.value == pytest.approx(max(1.2, spent.epsilon) + 2 * 0.5)
    assert after.value > before.value - 0.5  # one of the two may be today's
    assert "2 trainings from before" in after.detail


def test_a_table_counts_against_the_patients_whom_it_follows_in_whichever_collection_they_are(zones):
    enter(zones, "own", what="training")
    (at_home,) = guarantee(synthetic(), policy.load("dp"), 50, zones=zones)
    loud = Noise(sigma=0.9, rate=1.0, count=1)
    spent = enter(zones, "theirs", what="attributes", collection="elsewhere", noise=loud)
    (test,) = guarantee(synthetic(OTHER), policy.load("dp"), 50, zones=zones)
    assert test.value == spent.epsilon > at_home.value
    assert not test.passed
    (layout.folder(OTHER, zones=zones) / layout.RECORD).unlink()
    (test,) = guarantee(synthetic(OTHER), policy.load("dp"), 50, zones=zones)
    assert not test.passed
    assert "cohort that the table follows is gone" in test.detail
