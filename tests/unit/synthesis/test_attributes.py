from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgan.errors import InvalidRequest
from medgan.records import Target
from medgan.synthesis import attributes, joint, targets
from medgan.synthesis.joint import SMALL_CELL, Noise, gaussian_sigma, joint_table


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


def hospital(patients: int = 6000, seed: int = 0) -> pd.DataFrame:
    """Associations as real ones: age with finding, site with view."""
    rng = np.random.default_rng(seed)
    ill = rng.random(patients) < 0.4
    site = rng.choice(["north", "south"], patients, p=[0.7, 0.3])
    return pd.DataFrame(
        {
            "patient_key": [f"pt-{row:032x}" for row in range(patients)],
            "class": np.where(ill, "pneumonia", "normal"),
            "sex": rng.choice(["F", "M"], patients, p=[0.45, 0.55]),
            "age_years": np.where(ill, rng.normal(65, 12, patients), rng.normal(45, 15, patients)).clip(1, 99),
            "site": site,
            "view_position": np.where((site == "north") & (rng.random(patients) < 0.8), "PA", "AP"),
        }
    )


def made(images: int, wanted: list[Target], real: pd.DataFrame) -> tuple[pd.DataFrame, joint.JointTable]:
    asked = sorted({name for target in wanted for name in target.of})
    table = joint_table(real, asked=asked)
    counts = targets.allocate(images, wanted, table)
    return pd.DataFrame(list(table.counts), columns=list(table.columns)).assign(images=counts), table


@settings(deadline=None)
@given(st.integers(0, 5000), st.lists(st.floats(0.001, 10), min_size=1, max_size=8))
def test_counts_sum_to_what_was_asked_and_miss_no_share_by_one(total, weights):
    counts = targets.largest_remainder(total, weights)
    quota = total * np.asarray(weights) / np.sum(weights)
    assert counts.sum() == total
    assert np.all(np.abs(counts - quota) < 1 + 1e-6)


def test_no_cell_describes_fewer_than_eleven_patients():
    table = joint_table(real_table(rare=4))
    assert table.columns == ("class", "sex", "age_band")
    assert min(table.counts.values()) >= SMALL_CELL
    assert sum(table.counts.values()) >= 600 * (1 - joint.LEFT_OUT)


def test_one_rare_person_does_not_cost_everybody_an_attribute():
    real = real_table(600)
    real.loc[0, "sex"] = "O"
    table = joint_table(real)
    assert table.columns == ("class", "sex", "age_band")
    assert table.values("sex") == ("F", "M")
    assert 0 < table.left_out <= joint.LEFT_OUT


def test_an_attribute_that_merging_cannot_save_is_not_synthesised():
    real = real_table(60)
    real.loc[real.index % 3 == 0, "sex"] = "O"
    real.loc[real.index % 9 == 0, "sex"] = "F"
    assert joint_table(real).columns == ("class",)
    with pytest.raises(InvalidRequest, match="fewer than 11 patients"):
        joint_table(real, asked=["sex"])


def test_without_ages_sex_is_kept_and_what_is_not_known_is_refused_with_what_is():
    real = real_table().drop(columns="age_years")
    assert joint_table(real).columns == ("class", "sex")
    with pytest.raises(InvalidRequest, match="it knows class, sex"):
        joint_table(real, asked=["age_band"])


def test_what_nobody_asks_for_keeps_its_real_associations():
    real = hospital()
    rows, table = made(20_000, [Target(of=("sex",), shares={"F": 0.6})], real)
    assert rows.loc[rows["sex"] == "F", "images"].sum() == 12_000
    for pair in (["class", "age_band"], ["site", "view"]):
        ours = rows.groupby(pair)["images"].sum() / 20_000
        theirs = pd.DataFrame(list(table.counts), columns=list(table.columns)).assign(n=list(table.counts.values()))
        assert (ours - theirs.groupby(pair)["n"].sum() / sum(table.counts.values())).abs().max() < 0.01


def test_several_marginals_and_exact_joint_counts_are_met_to_the_image():
    wanted = [
        Target(of=("sex",), shares={"F": 0.6, "M": 0.4}),
        Target(of=("class",), shares={"pneumonia": 1 / 3}),
        Target(of=("class", "sex"), counts={"pneumonia x F": 1001, "normal x M": 1334}),
        Target(of=("site", "view"), shares={"north x PA": 0.25, "south x AP": 0.5}),
    ]
    rows, _ = made(5000, wanted, hospital())
    assert rows["images"].sum() == 5000
    assert rows.groupby("sex")["images"].sum().to_dict() == {"F": 3000, "M": 2000}
    assert rows.groupby("class")["images"].sum()["pneumonia"] == 1667
    both = rows.groupby(["class", "sex"])["images"].sum()
    assert (both["pneumonia", "F"], both["normal", "M"]) == (1001, 1334)
    views = rows.groupby(["site", "view"])["images"].sum()
    assert (views["north", "PA"], views["south", "AP"]) == (1250, 2500)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(200, 3000),
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
    st.lists(st.floats(0.1, 1), min_size=2, max_size=2),
)
def test_any_pair_of_marginals_is_met_within_one_image_a_value(images, women, ill, sites):
    share = sites[0] / sum(sites)
    wanted = [
        Target(of=("sex",), shares={"F": women}),
        Target(of=("class",), shares={"pneumonia": ill}),
        Target(of=("site",), shares={"north": share}),
    ]
    rows, _ = made(images, wanted, HOSPITAL)
    assert rows["images"].sum() == images
    for column, value, goal in (("sex", "F", women), ("class", "pneumonia", ill), ("site", "north", share)):
        assert abs(rows.loc[rows[column] == value, "images"].sum() - goal * images) <= 1


HOSPITAL = hospital(2000, seed=3).drop(columns=["view_position", "age_years"])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ([Target(of=("class",), shares={"fracture": 0.5})], "class may be normal; pneumonia"),
        ([Target(of=("sex",), shares={"F": 0.5, "M": 0.2})], "no other value is supported"),
        ([Target(of=("view",), counts={"PA": 10}), Target(of=("site", "view"), counts={"south x PA": 5})], "supported"),
        (
            [
                Target(of=("class",), shares={"pneumonia": 0.9, "normal": 0.1}),
                Target(of=("class", "sex"), shares={"normal x F": 0.4}),
            ],
            "cannot be met together",
        ),
    ],
)
def test_an_impossible_request_is_refused_with_what_is_supported(wanted, says):
    with pytest.raises(InvalidRequest, match=says):
        made(1000, wanted, hospital())


def test_nobody_is_given_what_no_person_can_have():
    real = hospital()
    real["class"] = np.where(real.index % 4 == 0, "pregnant", "not pregnant")  # half of the men wrongly so
    rows, _ = made(1000, [Target(of=("sex",), shares={"M": 0.5})], real)
    pregnant = rows[rows["class"] == "pregnant"]
    assert set(pregnant["sex"]) == {"F"}
    assert {attributes.band_years(band)[0] for band in pregnant["age_band"]} <= set(range(60))
    assert (rows.loc[rows["class"] == "not pregnant", "sex"] == "M").any()
    with pytest.raises(InvalidRequest, match="not supported"):
        made(100, [Target(of=("class", "sex"), counts={"pregnant x M": 1})], real)


def test_bands_asked_for_are_the_bands_of_the_table():
    edges = attributes.asked_edges(["30-59", "60+"])
    assert joint_table(hospital(), asked=["age_band"], edges=edges).values("age_band") == ("0-29", "30-59", "60+")
    with pytest.raises(InvalidRequest, match="overlap"):
        attributes.asked_edges(["30-59", "50+"])


@pytest.mark.parametrize("band", ["old", "60", "30-", "-30", "30-59+", "30-20", "0-999", "151+", f"0-{'9' * 5000}"])
def test_what_is_no_age_band_is_refused(band):
    with pytest.raises(InvalidRequest, match="an age band"):
        attributes.band_years(band)


@pytest.mark.parametrize(("epsilon", "delta", "sigma"), [(1.0, 1e-5, 3.7306), (0.5, 1e-5, 7.0318), (3.0, 1e-5, 1.3906)])
def test_noise_is_that_of_the_analytic_gaussian_mechanism(epsilon, delta, sigma):
    # sensitivity 1; the classical mechanism (Dwork & Roth, theorem A.1) needs 4.84 where this needs 3.73
    assert gaussian_sigma(epsilon, delta) == pytest.approx(sigma, rel=1e-4)


def test_noisy_counts_differ_by_key_hide_one_person_and_tell_no_small_cell():
    real, sigma = hospital(), gaussian_sigma(1.0, 1e-5)
    tables = [joint_table(real, noise=Noise(sigma=sigma, key=bytes([n]) * 32)) for n in (1, 1, 2)]
    assert tables[0] == tables[1]
    assert tables[0].counts != tables[2].counts
    for table in tables:
        assert min(table.counts.values()) >= SMALL_CELL
        assert sum(table.counts.values()) == pytest.approx(6000, rel=joint.LEFT_OUT + 0.02)


@pytest.mark.parametrize("patients", [0, 5, 30, 100, 400])
@pytest.mark.parametrize("epsilon", [None, 0.1, 1.0, 10.0])
def test_few_patients_and_much_noise_give_a_coarse_table_or_a_refusal(patients, epsilon):
    noise = epsilon and Noise(sigma=gaussian_sigma(epsilon, 1e-4), key=b"k" * 32)
    try:
        table = joint_table(hospital(max(patients, 1)).head(patients), noise=noise or None)
    except InvalidRequest:
        return
    assert table.columns[0] == "class"
    assert epsilon is None or min(table.counts.values(), default=SMALL_CELL) >= SMALL_CELL


@pytest.mark.parametrize(("age", "band"), [(5, "0-29"), (29.9, "0-29"), (30, "30-59"), (60, "60+"), (104, "60+")])
def test_bands_cover_every_age(age, band):
    assert attributes.band_name(age, (30, 60)) == band
    low, beyond = attributes.band_years(band)
    assert low <= age
    assert beyond is None or age < beyond


@pytest.mark.parametrize(
    "wrong",
    [
        {"of": ["sex"]},
        {"of": ["sex"], "shares": {"F": 0.5}, "counts": {"F": 1}},
        {"of": ["sex"], "shares": {"F": 0.8, "M": 0.4}},
        {"of": ["sex"], "shares": {"F": -0.1}},
        {"of": ["sex", "sex"], "shares": {"F x F": 0.1}},
        {"of": ["class", "sex"], "shares": {"F": 0.1}},
        {"of": ["height"], "shares": {"tall": 0.1}},
    ],
)
def test_a_target_that_says_nothing_or_two_things_is_refused(wrong):
    with pytest.raises(ValueError, match=r"target|shares|counts|Input"):
        Target.model_validate(wrong)
