"""A model that was adapted from another may still make images of the other's patients: the gate looks for them too."""

from __future__ import annotations

import json

import pytest

from medgan.cohort import prepare, read, synthetic
from medgan.collection import store
from medgan.errors import InvalidRequest
from medgan.gan import level
from medgan.privacy import attack
from medgan.records import Verdict
from tests.builders.cohort import prepared_cohort, xray_recipe
from tests.builders.model import described_model

SITE, BASE = "mo-" + "5" * 32, "mo-" + "b" * 32


@pytest.fixture(scope="module")
def adapted(case):
    """The site's model in the store, its base, and train images of the base's cohort that are not the site's."""
    cohort = prepared_cohort(case.zones, 60, 32)
    described_model(BASE, cohort.cohort, case.zones, snapshot=cohort.collection_snapshot)
    for handle, described in ((SITE, {"level": level.SITE, "adapted": {"base": BASE}}), (BASE, {})):
        folder = case.zones.pseudonymised / "models" / handle
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(described))
    known = {image.tobytes() for image in read.load(case.cohort.cohort, zones=case.zones).images}
    return [image for image in read.load(cohort, zones=case.zones).split("train")[0] if image.tobytes() not in known]


def of_site(case, images):
    made = case.synthetic(images).model_copy(update={"model": SITE})
    (synthetic.folder(made.synthetic, zones=case.zones) / synthetic.RECORD).write_bytes(made.canonical())
    return made


def test_a_copy_of_the_base_models_patient_is_refused(case, adapted):
    images = case.fresh[:240].copy()
    images[17] = adapted[3]
    report = attack.attack(of_site(case, images), case.cohort, zones=case.zones, policy="internal")
    copies = next(test for test in report.tests if test.test == "G1")
    assert (report.verdict, copies.value, copies.passed) == (Verdict.REFUSED, 1, False)
    assert any("adapted from" in told for told in report.not_tested)


def test_a_base_that_is_gone_is_a_refusal_and_no_pass(case, adapted):
    assert adapted
    path = case.zones.pseudonymised / "models" / BASE / "model.json"
    body = path.read_bytes()
    path.unlink()
    with pytest.raises(InvalidRequest, match="gone"):
        attack._learned_before(SITE, zones=case.zones)
    path.write_bytes(body)
    assert len(attack._learned_before(SITE, zones=case.zones)) == 1
    assert attack._learned_before(BASE, zones=case.zones) == []


@pytest.fixture(scope="module")
def learned(case):
    """A base that learned from more of the site's own archive, half of the first holdout among it."""
    recipe = xray_recipe(32, train_fraction=0.82, holdout_fraction=0.09)
    cohort = prepare.prepare(store.head("xray-900", zones=case.zones), recipe, zones=case.zones)
    handle = "mo-" + "c" * 32
    described_model(handle, cohort.cohort, case.zones, snapshot=cohort.collection_snapshot)
    (case.zones.pseudonymised / "models" / handle / "config.json").write_text("{}")
    return frozenset(read.load(cohort, zones=case.zones).split("train")[2]["patient_key"]), handle


def test_whom_the_base_learned_from_is_no_stranger_to_calibrate_with(case, learned):
    known, base = learned
    described, handle = {"level": level.SITE, "adapted": {"base": base}}, "mo-" + "7" * 32
    described_model(handle, case.cohort.cohort.cohort, case.zones)
    (case.zones.pseudonymised / "models" / handle / "config.json").write_text(json.dumps(described))
    assert attack._learned_before(handle, zones=case.zones)[0][1] == known
    plain, everybody, _ = attack._real(case.cohort, zones=case.zones)
    fresh, left, _ = attack._real(case.cohort, known, zones=case.zones)
    assert not known & {*fresh[""].holdout_1_patients, *fresh[""].holdout_2_patients}
    assert 20 < left["holdout-1 patients"] < everybody["holdout-1 patients"] - 20
    assert len(fresh[""].holdout_1) == left["holdout-1 images"]
    assert list(fresh[""].train_patients) == list(plain[""].train_patients)


def test_strangers_whom_the_base_all_knows_are_a_refusal_and_no_pass(case):
    holdouts = attack._real(case.cohort, zones=case.zones)[0][""]
    with pytest.raises(InvalidRequest, match="nobody is left"):
        attack._real(case.cohort, frozenset(holdouts.holdout_2_patients), zones=case.zones)
