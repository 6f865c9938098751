from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgan.errors import InvalidRequest
from medgan.synthesis import attributes


def real_table(patients: int = 600, *, rare: int = 0) -> pd.DataFrame:
    index = np.arange(patients)
    ages = 20.0 + index % 70
    ages[:rare] = 3.0
    return pd.DataFrame(
        {
            "patient_key": [f"pt-{row:032x}" for row in index],
            "class": np.where(index % 3 == 0, "normal", "pneumonia"),
            "sex": np.where(index % 2, "F", "M"),
            "age_years": ages,
        }
    )


@given(st.integers(0, 5000), st.lists(st.floats(0.001, 10), min_size=1, max_size=8))
def test_counts_sum_to_what_was_asked_and_miss_no_share_by_one(total, weights):
    counts = attributes.largest_remainder(total, weights)
    quota = total * np.asarray(weights) / np.sum(weights)
    assert counts.sum() == total
    assert np.all(np.abs(counts - quota) < 1 + 1e-6)


def test_class_counts_are_exact_integers():
    counts = attributes.class_counts(2048, ("normal", "pneumonia"), {"normal": 0.25, "pneumonia": 0.75})
    assert counts == {"normal": 512, "pneumonia": 1536}


@pytest.mark.parametrize("shares", [{"normal": 0.5}, {"normal": 0.5, "fracture": 0.5}, {"normal": -1, "pneumonia": 2}])
def test_an_impossible_request_is_refused(shares):
    with pytest.raises(InvalidRequest):
        attributes.class_counts(100, ("normal", "pneumonia"), shares)


def test_no_cell_describes_fewer_than_eleven_patients():
    joint = attributes.joint_table(real_table(rare=4))
    assert joint.columns == ("class", "sex", "age_band")
    assert min(joint.counts.values()) >= attributes.SMALL_CELL
    assert sum(joint.counts.values()) == 600


def test_an_attribute_that_merging_cannot_save_is_not_synthesised():
    table = real_table(60)
    table.loc[0, "sex"] = "O"
    assert attributes.joint_table(table).columns == ("class",)


def test_without_ages_sex_is_kept():
    assert attributes.joint_table(real_table().drop(columns="age_years")).columns == ("class", "sex")


def test_the_synthetic_table_follows_the_joint_table():
    joint = attributes.joint_table(real_table())
    table = attributes.attribute_table(3000, {"normal": 1000, "pneumonia": 2000}, joint, seed=3)
    assert table["class"].value_counts().to_dict() == {"pneumonia": 2000, "normal": 1000}
    made = table.groupby(["class", "sex", "age_band"]).size()
    for cell, count in joint.counts.items():
        real_total = sum(value for other, value in joint.counts.items() if other[0] == cell[0])
        assert abs(made[cell] - count / real_total * (1000 if cell[0] == "normal" else 2000)) < 1
    assert table["id"].tolist() == list(range(3000))


def test_the_seed_decides_the_order():
    joint = attributes.joint_table(real_table())
    first, again, other = (
        attributes.attribute_table(200, {"normal": 100, "pneumonia": 100}, joint, seed=seed) for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert not first["class"].equals(other["class"])


@pytest.mark.parametrize(("age", "band"), [(5, "0-29"), (29.9, "0-29"), (30, "30-59"), (60, "60+"), (104, "60+")])
def test_bands_cover_every_age(age, band):
    assert attributes.band_name(age, (30, 60)) == band
