from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medgan.privacy import attributes, policy

STRICT = policy.load("strict")


def people(count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient_key": [f"pt-{seed}-{row}" for row in range(count)],
            "class": rng.choice(["normal", "pneumonia"], count),
            "sex": rng.choice(["F", "M"], count),
            "age_years": rng.uniform(20, 80, count),
        }
    )


def table(count: int = 2000, seed: int = 9) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "class": rng.choice(["normal", "pneumonia"], count),
            "sex": rng.choice(["F", "M"], count),
            "age_band": rng.choice(["0-39", "40-59", "60+"], count),
        }
    )


def by_title(tests):
    return {test.title.split(",")[0]: test for test in tests}


def test_an_independent_table_tells_nothing():
    tests = attributes.attacks(table(), people(4000, 1), people(2000, 2), STRICT)
    assert len(tests) == 6
    assert all(test.passed or not test.conclusive for test in tests)


def test_site_and_view_are_attacked_where_they_are_released():
    train, holdout = people(4000, 1), people(4000, 2)
    train["institution"] = np.where(train["sex"] == "F", "north", "south")  # true of these patients only
    holdout["institution"] = np.random.default_rng(3).choice(["north", "south"], len(holdout))
    labels = table()
    labels["site"] = np.where(labels["sex"] == "F", "north", "south")
    test = by_title(attributes.attacks(labels, train, holdout, STRICT))["inference of site"]
    assert test.value > 0.9
    assert not test.passed
    assert test.conclusive


def test_a_row_behind_which_few_people_stand_fails():
    labels = pd.concat([table(), pd.DataFrame({"class": ["normal"], "sex": ["O"], "age_band": ["60+"]})])
    train = people(4000, 1)
    train.loc[:3, ["class", "sex", "age_years"]] = ["normal", "O", 70.0]
    test = by_title(attributes.attacks(labels, train, people(2000, 2), STRICT))[
        "fewest patients behind a row of the released table"
    ]
    assert test.value == 4
    assert not test.passed
    assert test.conclusive


def test_a_site_of_few_people_is_seen_and_a_patient_with_two_findings_counts_in_both():
    train, labels = people(4000, 1), table()
    train["institution"] = ["small"] * 8 + ["large"] * 3992
    labels["site"] = ["small", *["large"] * (len(labels) - 1)]
    title = "fewest patients behind a row of the released table"
    test = by_title(attributes.attacks(labels, train, people(2000, 2).assign(institution="large"), STRICT))[title]
    assert test.value < 9
    assert not test.passed
    both = pd.concat([people(40, 1).assign(**{"class": name}) for name in ("normal", "pneumonia")])
    shown = pd.DataFrame({"class": ["normal", "pneumonia"] * 20})
    assert by_title(attributes.attacks(shown, both, people(40, 2), STRICT))[title].value == 40


def test_a_table_that_repeats_train_lets_secrets_be_inferred():
    train, holdout = people(4000, 1), people(4000, 2)
    train["class"] = np.where(train["sex"] == "F", "normal", "pneumonia")  # true of these patients only
    labels = attributes.as_released(train, table())
    test = by_title(attributes.attacks(labels, train, holdout, STRICT))["inference of class"]
    assert test.value > 0.9
    assert not test.passed
    assert test.conclusive


def test_a_unique_row_that_names_one_person_singles_out():
    train = people(500, 1)
    train.loc[0, ["class", "sex", "age_years"]] = ["normal", "O", 70.0]
    labels = attributes.as_released(
        train, pd.concat([table(), pd.DataFrame({"class": ["normal"], "sex": ["O"], "age_band": ["60+"]})])
    )
    assert attributes._singled_out(labels, labels, ("class", "sex", "age_band")).sum() == 1


@pytest.mark.parametrize(("age", "band"), [(5, "0-39"), (39.9, "0-39"), (40, "40-59"), (99, "60+")])
def test_ages_fall_into_the_released_bands(age, band):
    assert attributes._band_of(age, ["0-39", "40-59", "60+"]) == band
