"""Sex, age and site decide the image that is asked for, may each be left out, and never name a person."""

import json

import numpy as np
import pytest

from medgan.errors import InvalidRequest
from medgan.gan import conditions, generator
from medgan.gan.conditions import Field, encode, learn, learn_all
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet, read_plain
from medgan.gan.sample import FORMAT, Sampler
from tests.unit.gan.builders import small_config, small_set

SEX, AGE = Field(name="sex", values=("F", "M")), Field(name="age_years", low=20.0, high=80.0)


def conditioned(images: int = 96) -> TrainingSet:
    """Radiographs whose brightness is an age and whose left upper corner is white for M."""
    plain = small_set(images)
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, images)
    sex = np.where(rng.random(images) < 0.5, "M", "F")
    small = plain.pixels.reshape(images, 8, 4, 8, 4).mean((2, 4))
    pixels = (small * 0.2 + (age[:, None, None] - 20) / 60 * 50_000).astype(np.uint16)
    pixels[sex == "M", :2, :2] = 65535
    fields, features = learn_all({"sex": sex, "age_years": age}, np.arange(images))
    return TrainingSet(
        pixels=pixels, class_index=plain.class_index, classes=plain.classes, lo=0.0, hi=65535.0,
        fields=fields, features=features,
    )  # fmt: skip


def test_a_quantity_is_smooth_bounded_and_knows_that_it_is_missing():
    features = AGE.features([20, 50, 50.1, 80, 200, float("nan"), None])
    assert features.shape == (7, 9)
    assert np.abs(features[1] - features[2]).max() < 0.01
    assert np.array_equal(features[3], features[4])  # beyond what was seen: the end of what was seen
    assert np.array_equal(features[5], AGE.null)
    assert np.array_equal(features[5], features[6])
    assert np.linalg.norm(features[0] - features[3]) > 1  # no wrap from young to old


def test_a_category_is_one_place_a_value_and_one_for_unknown():
    assert SEX.features(["F", "M", "", "unknown", None]).tolist() == [[1, 0, 0], [0, 1, 0]] + 3 * [[0, 0, 1]]
    with pytest.raises(InvalidRequest, match="F, M"):
        SEX.features(["X"])


def test_a_value_of_few_patients_is_not_learned():
    site = np.array(["a"] * 40 + ["b"] * 30 + ["c"] * 30)
    patients = np.array([*range(40), *range(40, 70), *([99] * 20), *range(100, 110)])  # site c: 11 patients
    assert learn("site", site, patients).values == ("a", "b", "c")
    patients[-1] = 100
    field = learn("site", site, patients)
    assert field.values == ("a", "b")
    fields, features = learn_all({"site": site}, patients)
    assert fields == (field,)
    assert np.array_equal(features[-1], field.null)


@pytest.mark.parametrize("column", [np.full(50, 3.0), np.full(50, np.nan), np.array(["F"] * 50), np.array([""] * 50)])
def test_a_column_that_says_nothing_is_no_condition(column):
    assert learn("any", column, np.arange(50)) is None


def test_numbers_with_gaps_are_a_quantity_and_digits_in_text_are_names():
    gaps = np.array([*range(30), None, float("nan")], object)
    field = learn("age", gaps, np.arange(32))
    assert not field.values
    assert np.array_equal(learn_all({"age": gaps}, np.arange(32))[1][-2:], [field.null, field.null])
    assert learn("site", np.array(["1", "2"] * 20), np.arange(40)).values == ("1", "2")


def test_age_range_counts_patients_and_not_images():
    age = np.array([*range(20, 80), *([99] * 1000)], float)
    assert learn("age", age, np.array([*range(60), *([60] * 1000)])).high < 99


def test_what_is_not_given_is_unknown_and_nonsense_is_refused():
    features = encode((SEX, AGE), {"age_years": [30, 40]}, 2)
    assert np.array_equal(features[:, :3], [SEX.null, SEX.null])
    with pytest.raises(InvalidRequest, match="sex, age_years"):
        encode((SEX, AGE), {"weight": [1, 2]}, 2)
    with pytest.raises(InvalidRequest, match="one value an image"):
        encode((SEX, AGE), {"sex": ["F"]}, 2)
    with pytest.raises(InvalidRequest, match="quantity"):
        encode((SEX, AGE), {"age_years": ["old", "young"]}, 2)


def test_fields_travel_as_json():
    assert conditions.from_json(json.loads(json.dumps(conditions.to_json((SEX, AGE))))) == (SEX, AGE)


def test_image_follows_the_age_and_the_sex_that_are_asked_for(tmp_path):
    config = small_config(size_px=8, widths=(32,), total_kimg=8.0, tick_kimg=8.0, augment_p=0.0)
    fit(conditioned(400), config, tmp_path)
    sampler, ids = Sampler(tmp_path), np.arange(64)
    assert [field.name for field in sampler.fields] == ["sex", "age_years"]
    ages = np.linspace(25, 75, 64)
    made = sampler.images(ids, ids % 2, seed=0, conditions={"age_years": ages, "sex": ["F", "M"] * 32})
    assert np.corrcoef(made[:, 3:].mean((1, 2)), ages)[0, 1] > 0.8
    corner, beside = made[:, :2, :2].mean((1, 2)), made[:, :2, 3:].mean((1, 2))
    assert (corner - beside)[1::2].mean() > (corner - beside)[::2].mean() + 5000
    grouped = sampler.images(ids[7:9], ids[7:9] % 2, seed=0, conditions={"age_years": ages[7:9], "sex": ["M", "F"]})
    assert np.array_equal(grouped, made[7:9])
    assert len(sampler.images(ids, ids % 2, seed=0)) == 64  # nothing but a class is needed


def test_class_alone_trains_and_reads_as_before_there_were_fields(tmp_path):
    config = small_config()
    assert set(generator.build(config, 2).state_dict()) >= {"embedding.weight", "start.weight"}
    assert not any("fields" in name for name in generator.build(config, 2).state_dict())
    fit(small_set(), config, tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    before = Sampler(tmp_path).images(np.arange(3), np.zeros(3, int), seed=0)
    for name in ("format", "fields"):
        del described[name]
    del described["config"]["conditions"]
    (tmp_path / "config.json").write_text(json.dumps(described))  # as the first version wrote it
    assert np.array_equal(Sampler(tmp_path).images(np.arange(3), np.zeros(3, int), seed=0), before)
    (tmp_path / "config.json").write_text(json.dumps({**described, "format": FORMAT + 1}))
    with pytest.raises(InvalidRequest, match="newer"):
        Sampler(tmp_path)


def test_state_of_another_training_set_is_not_resumed(tmp_path):
    fit(small_set(), small_config(total_kimg=0.064), tmp_path)
    fit(small_set(64), small_config(total_kimg=0.064), tmp_path)
    fit(small_set(64), small_config(total_kimg=0.064), tmp_path / "fresh")
    weights = [(folder / "generator.safetensors").read_bytes() for folder in (tmp_path, tmp_path / "fresh")]
    assert weights[0] == weights[1]


def test_plain_npz_may_bring_conditions(tmp_path):
    small = small_set(40)
    np.savez(tmp_path / "set.npz", images=small.pixels, labels=small.class_index, age=np.arange(40.0))
    images = read_plain(tmp_path / "set.npz", names=["age"])
    assert [field.name for field in images.fields] == ["age"]
    assert images.features.shape == (40, 9)
    with pytest.raises(InvalidRequest, match="one value an image"):
        read_plain(tmp_path / "set.npz", names=["weight"])
