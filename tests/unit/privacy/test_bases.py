"""A model that was adapted from another may still make images of the other's patients: the gate looks for them too."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medgan.cohort import prepare, read, synthetic
from medgan.collection import store
from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import level
from medgan.privacy import attack, stages
from medgan.privacy.views import changed, to_view
from medgan.records import Verdict
from tests.builders.cohort import commit, radiographs, xray_recipe, xray_rows
from tests.builders.model import described_model
from tests.unit.privacy.conftest import unused_rows

SITE, BASE = "mo-" + "5" * 32, "mo-" + "b" * 32
FULL = (0, 65535)


def described(handle, zones, *, base=None):
    """What stands beside the weights of a site's model, or of one that was adapted from nothing."""
    text = json.dumps({"level": level.SITE, "adapted": {"base": base}} if base else {})
    path = zones.pseudonymised / "models" / handle / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def base(case):
    """Cohort of the base that the site's model is adapted from: radiographs of no other set."""
    pixels, labels = radiographs()
    rows = unused_rows(pixels)[2 * len(case.fresh) :][:800]
    snapshot = commit(xray_rows(pixels[rows], labels[rows]), pixels[rows], case.zones, "base")
    cohort = prepare.prepare(snapshot, xray_recipe(32), zones=case.zones)
    described_model(BASE, cohort.cohort, case.zones, snapshot=cohort.collection_snapshot)
    described(BASE, case.zones)
    described(SITE, case.zones, base=BASE)
    return read.load(cohort, zones=case.zones)


def judged(case, images):
    made = case.synthetic(images).model_copy(update={"model": SITE})
    (synthetic.folder(made.synthetic, zones=case.zones) / synthetic.RECORD).write_bytes(made.canonical())
    return attack.attack(made, case.cohort, zones=case.zones, policy="internal")


def refusals(report):
    return [(test.test, test.title) for test in report.tests if not test.passed and test.conclusive]


def test_a_site_release_of_nobody_the_base_learned_from_is_cleared(case, base):
    assert base
    report = judged(case, case.fresh[:240])
    assert report.verdict == Verdict.CLEARED, refusals(report)
    of_base = {test.test for test in report.tests if test.title.endswith(", base")}
    assert of_base == {"G1", "G2", "G4", "G5", "G6", "G9"}


def test_copies_of_the_bases_patients_are_refused_changed_ones_too(case, base):
    memorised = base.split("train")[0][:240]
    noisy = changed("noise 5 %", to_view(memorised, FULL), np.random.default_rng(0))
    report = judged(case, np.concatenate([memorised[:1], np.rint(noisy[1:] * 65535).astype(np.uint16)]))
    assert report.verdict == Verdict.REFUSED
    assert {("G1", "exact and near-exact copies, base"), ("G2", "tail of copies, excess rate (95 % upper), base")} <= {
        *refusals(report)
    }
    assert all(title.endswith(", base") for _, title in refusals(report)), "the site's own strangers see nothing"


def test_a_base_that_is_gone_or_says_nothing_of_itself_is_a_refusal_and_no_pass(case, base):
    def seen(model):
        return [stage.name for stage in stages.stages(model, case.cohort.cohort, zones=case.zones)]

    assert (seen(SITE), seen(BASE)) == (["", "base"], [""])
    for name in ("model.json", "config.json"):
        path = case.zones.pseudonymised / "models" / BASE / name
        body = path.read_bytes()
        path.unlink()
        with pytest.raises(InvalidRequest, match="gone"):
            seen(SITE)
        path.write_bytes(body)
    own = described(BASE, case.zones, base=BASE)
    with pytest.raises(IntegrityError, match="more than 8"):
        seen(SITE)
    own.write_text("{}")
    assert base


@pytest.fixture(scope="module")
def overlapping(case):
    """A base that learned from more of the site's own archive, half of the first holdout among it; and from whom."""
    recipe = xray_recipe(32, train_fraction=0.82, holdout_fraction=0.09)
    cohort = prepare.prepare(store.head("xray-900", zones=case.zones), recipe, zones=case.zones)
    handle = "mo-" + "c" * 32
    described_model(handle, cohort.cohort, case.zones, snapshot=cohort.collection_snapshot)
    described(handle, case.zones)
    return frozenset(read.load(cohort, zones=case.zones).split("train")[2]["patient_key"]), handle


def test_whom_another_stage_learned_from_is_no_stranger_to_calibrate_with(case, overlapping):
    known, base = overlapping
    handle = "mo-" + "7" * 32
    described(handle, case.zones, base=base)
    own, before = stages.stages(handle, case.cohort.cohort, zones=case.zones)
    plain, everybody = stages.real_images(read.load(case.cohort.cohort, zones=case.zones))
    for stage, others in ((own, known), (before, {*plain[""].train_patients})):
        assert not others & {*stage.real[""].holdout_1_patients, *stage.real[""].holdout_2_patients}
    assert 20 < own.counts["holdout-1 patients"] < everybody["holdout-1 patients"] - 20
    assert len(own.real[""].holdout_1) == own.counts["holdout-1 images"]
    assert list(own.real[""].train_patients) == list(plain[""].train_patients)


def test_strangers_whom_another_stage_all_knows_are_a_refusal_and_no_pass(case):
    loaded = read.load(case.cohort.cohort, zones=case.zones)
    with pytest.raises(InvalidRequest, match="nobody is left"):
        stages.real_images(loaded, frozenset(loaded.split("holdout-2")[2]["patient_key"]))
