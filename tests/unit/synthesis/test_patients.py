from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medgan.cohort import synthetic
from medgan.errors import InvalidRequest
from medgan.privacy import attributes as attacked
from medgan.privacy.policy import load
from medgan.records import CohortSpec, Target
from medgan.synthesis import patients, plan
from medgan.synthesis.generate import generate

SAME = ["class", "sex", "age_band"]


def table(images: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"class": ["normal", "pneumonia"], "sex": ["F", "M"], "age_band": ["0-49", "50+"], "view": ["AP", "PA"]}
    drawn = {name: rng.choice(values, images) for name, values in columns.items()}
    return pd.DataFrame({"id": np.arange(images), "split": "train", **drawn})


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 400),
    st.dictionaries(st.integers(1, 12), st.floats(0.01, 1), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_every_image_has_one_patient_who_is_one_person_and_has_no_more_than_was_asked(images, weights, seed):
    shares = {number: weight / sum(weights.values()) for number, weight in weights.items()}
    rows = table(images, seed)
    rows["patient"] = patients.assigned(rows, shares, seed=seed)
    assert sorted(rows["patient"].unique()) == list(range(rows["patient"].nunique()))
    assert len(rows.drop_duplicates(["patient", *SAME])) == rows["patient"].nunique()
    counts = rows["patient"].value_counts()
    assert counts.max() <= max(shares)
    cells = rows[SAME].drop_duplicates().shape[0]
    assert (~counts.isin(list(shares))).sum() <= cells  # images that do not divide: one patient a cell


def test_numbers_of_images_are_spread_as_asked():
    rows = table(20_000)
    shares = {1: 0.5, 2: 0.3, 7: 0.2}
    found = patients.told(rows.assign(patient=patients.assigned(rows, shares, seed=1)))
    total = sum(found.values())
    assert all(abs(found[number] / total - share) < 0.005 for number, share in shares.items())


def test_real_numbers_are_followed_and_a_rare_one_is_told_as_a_smaller():
    sizes = [1] * 60 + [2] * 30 + [5] * 10 + [57]
    real = pd.DataFrame(
        [{"patient_key": f"pt-{p}", "class": "normal"} for p, size in enumerate(sizes) for _ in range(size)]
    )
    spec = CohortSpec(images_per_patient="real")
    assert patients.asked(spec, real, private=False) == {1: 60 / 101, 2: 30 / 101, 5: 11 / 101}
    with pytest.raises(InvalidRequest, match="fewer than 11"):
        patients.asked(spec, real.iloc[:8], private=False)
    with pytest.raises(InvalidRequest, match="not differentially private"):
        patients.asked(spec, real, private=True)


@pytest.mark.parametrize(
    "asked",
    [0, -1, 10_001, {"0": 1.0}, {"1": 0.5}, {"1": 0.5, "01": 0.5}, {"x": 1.0}, {"1": 1.5, "2": -0.5}, {}, "all"],
)
def test_numbers_of_images_that_nobody_can_have_are_refused(asked):
    with pytest.raises(ValidationError):
        CohortSpec(images_per_patient=asked)


def test_patients_change_no_marginal_and_images_stay_draws_of_their_own(trained, tmp_path, scheduler):
    model, zones = trained
    zones = dataclasses.replace(zones, synthetic=tmp_path)
    wanted = (Target(of=("class", "sex"), counts={"pneumonia x F": 31}),)
    spec = CohortSpec(images=100, targets=wanted, images_per_patient={"1": 0.5, "3": 0.5}, seed=2)
    made = generate(model, spec, zones=zones, scheduler=scheduler)
    loaded = synthetic.load(made, zones=zones)
    labels = loaded.labels
    assert ((labels["class"] == "pneumonia") & (labels["sex"] == "F")).sum() == 31
    assert made.patients == labels["patient"].nunique() < 100
    assert len(labels.drop_duplicates(["patient", *SAME])) == made.patients
    assert len(np.unique(loaded.images, axis=0)) == 100
    told = plan.plan(model, spec, zones=zones, workers=1)
    assert sum(number * count for number, count in told.patients.items()) == 100
    assert any(f"patients: {made.patients}; by their images: " in line for line in told.lines())


def test_a_series_that_the_model_does_not_make_is_refused_before_any_work(trained, tmp_path):
    model, zones = trained
    with pytest.raises(InvalidRequest, match="40 images are asked for and this model makes series of 1"):
        plan.plan(model, CohortSpec(images=80, series_length=40), zones=zones, workers=1)


def test_more_images_of_a_patient_than_there_are_alike_are_refused(trained):
    model, zones = trained
    with pytest.raises(InvalidRequest, match="patients of 90 images are asked for"):
        plan.plan(model, CohortSpec(images=100, images_per_patient=90), zones=zones, workers=1)


def test_the_gate_counts_a_patient_with_several_images_once():
    people = pd.DataFrame({"class": ["normal"] * 30 + ["rare"], "patient": [*range(30), 30]})
    several = pd.concat([people, people.iloc[30:]], ignore_index=True)
    real = pd.DataFrame({"patient_key": [f"pt-{i}" for i in range(31)], "class": people["class"]})
    policy = load("strict")
    told = [attacked.attacks(labels, real, real, policy) for labels in (people, several)]
    assert told[0] == told[1]
    unmarked = attacked.attacks(several.drop(columns="patient"), real, real, policy)
    assert unmarked != told[0]  # two rows of one person hid that the combination is theirs alone
