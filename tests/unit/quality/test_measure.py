"""A report is the same twice, orders good and bad images rightly, and shows no real image."""

import base64
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from scipy.ndimage import gaussian_filter

from medgan.cohort import layout as cohorts
from medgan.cohort import read
from medgan.cohort import synthetic as layout
from medgan.collection import table as tables
from medgan.errors import InvalidRequest
from medgan.gan import grid
from medgan.gan.images import to_unit
from medgan.quality import compare as compare_module
from medgan.quality import features, utility
from medgan.quality.compare import Sample, compare
from medgan.quality.measure import _first, _real_beside_synthetic, measure
from medgan.records import CohortSpec, SyntheticCohort, ValidatedCohort, sha256_hex
from medgan.settings import Zones
from tests.builders.cohort import prepared_cohort


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(features, "STEPS", 24)
    monkeypatch.setattr(compare_module, "_SEEN_OUTSIDE", 16)


@pytest.fixture(scope="module")
def zones(tmp_path_factory):
    return Zones.under(tmp_path_factory.mktemp("quality"))


@pytest.fixture(scope="module")
def validated(zones):
    snapshot = prepared_cohort(zones, 900)
    return ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)


@pytest.fixture(scope="module")
def real(zones, validated):
    return read.load(validated.cohort, zones=zones)


@pytest.fixture(scope="module")
def samples(real):
    """(train, holdout) samples."""
    parts = [real.split(name) for name in ("train", "holdout-1", "holdout-2")]
    train, first, second = (Sample(stored=x, class_index=c, attrs=real.attrs) for x, c, _ in parts)
    holdout = Sample(
        stored=np.concatenate([first.stored, second.stored]),
        class_index=np.concatenate([first.class_index, second.class_index]),
        attrs=real.attrs,
    )
    return train, holdout


def write_synthetic(zones, validated, real, stored, class_index):
    """A synthetic cohort with these images, laid out as docs/data-format.md says."""
    pixel_sha256 = layout.pixel_digest(stored)
    handle = "sy-" + pixel_sha256[:32]
    home = layout.folder(handle, zones=zones)
    home.mkdir(parents=True)
    group = zarr.create_group(home / layout.IMAGES, zarr_format=3)
    array = group.create_array("images", data=stored, chunks=(16, *stored.shape[1:]))
    array.update_attributes(real.attrs)
    names = [real.classes[index] for index in class_index]
    labels = tables.to_parquet(pd.DataFrame({"id": np.arange(len(stored)), "split": "train", "class": names}))
    (home / layout.LABELS).write_bytes(labels)
    record = SyntheticCohort(
        synthetic=handle,
        model="mo-" + "0" * 32,
        cohort=validated.cohort.cohort,
        spec=CohortSpec(images=len(stored)),
        images=len(stored),
        class_counts={name: names.count(name) for name in real.classes},
        size_px=stored.shape[1],
        pixel_sha256=pixel_sha256,
        labels_sha256=sha256_hex(labels),
    )
    (home / layout.RECORD).write_bytes(record.canonical())
    return record


def values(comparison):
    return {measure.name: measure.value for measure in comparison.measures}


def test_encoder_is_the_same_twice_and_named_by_its_weights(samples):
    train, _ = samples
    first, again = (features.train(train.unit, train.class_index, 2) for _ in range(2))
    other = features.train(train.unit[::2], train.class_index[::2], 2)
    assert first.sha256 == again.sha256 != other.sha256
    assert np.array_equal(first(train.unit), again(train.unit))
    assert first(train.unit).var(0).sum() == pytest.approx(features.FEATURES)
    assert (first.sees(train.unit) == train.class_index).mean() > 0.85


def test_measures_order_real_blurred_and_collapsed_images(samples):
    train, holdout = samples
    blurred = gaussian_filter(train.stored.astype(float), (0, 1.0, 1.0)).astype(np.uint16)
    collapsed = np.arange(len(train)) % 12
    good = compare(train, train, holdout, classes=2)
    soft = compare(Sample(stored=blurred, class_index=train.class_index, attrs=train.attrs), train, holdout, classes=2)
    few = compare(train.take(collapsed), train, holdout, classes=2)
    assert values(good)["spectrum_high_db"] < 0.5 < values(soft)["spectrum_high_db"]
    assert values(good)["coverage"] > 0.85
    assert values(few)["coverage"] < 0.4
    assert values(good)["frechet"] < values(few)["frechet"]
    assert values(good)["nearest_is_train"] > 0.6  # these are training images, to the bit
    for measured in good.measures:  # in everything else train against holdout is its own floor
        if measured.name == "nearest_is_train":
            continue
        assert measured.value == pytest.approx(measured.reference, abs=0.12), measured.name


def test_copies_of_training_images_are_told_from_images_of_others(samples):
    train, holdout = samples
    noise = np.random.default_rng(0).integers(-600, 600, holdout.stored.shape)

    def noisy(sample):
        stored = np.clip(sample.stored[: len(holdout)] + noise, 0, 65535).astype(np.uint16)
        return Sample(stored=stored, class_index=sample.class_index[: len(holdout)], attrs=sample.attrs)

    few = train.take(np.arange(len(holdout)))  # every one of them takes part in the comparison
    assert values(compare(noisy(train), few, holdout, classes=2))["nearest_is_train"] > 0.95
    assert values(compare(noisy(holdout), few, holdout, classes=2))["nearest_is_train"] < 0.05


def test_report_is_the_same_twice_and_stands_alone(zones, validated, real, samples):
    train, _ = samples
    rows = np.arange(200)
    noisy = np.clip(train.stored[rows].astype(int) + 900, 0, 65535).astype(np.uint16)
    synthetic = write_synthetic(zones, validated, real, noisy, train.class_index[rows])
    first = measure(synthetic, validated, zones=zones)
    home = layout.folder(synthetic.synthetic, zones=zones)
    names = ("quality.json", "quality.html", "quality-record.json")
    written = {name: (home / name).read_bytes() for name in names}
    assert measure(synthetic, validated, zones=zones) == first  # found again
    for name in names:
        (home / name).unlink()
    assert measure(synthetic, validated, zones=zones) == first  # made again
    assert {name: (home / name).read_bytes() for name in names} == written
    assert first.report_sha256 == sha256_hex(written["quality.json"])
    page = written["quality.html"].decode()
    assert f"<td>{', '.join(validated.cohort.classes)}</td>" in page, "lists stand in words"
    assert not re.search(r"<script|src=\"http|href=", page)
    assert "prefers-color-scheme" in page
    assert json.loads(written["quality.json"])["counts"]["synthetic"] == 200


def test_report_holds_no_real_image_and_no_patient(zones, validated, real):
    flat = np.full((60, 32, 32), 30_000, np.uint16)
    flat += np.arange(60, dtype=np.uint16)[:, None, None]
    synthetic = write_synthetic(zones, validated, real, flat, np.arange(60) % 2)
    measure(synthetic, validated, zones=zones)
    home = layout.folder(synthetic.synthetic, zones=zones)
    page = (home / "quality.html").read_text()
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 1
    grey = grid.to_grey(flat[:1], 0, 65535)
    assert base64.b64decode(pictures[0]) != grid.png(grey[0])  # it is a grid
    assert len(base64.b64decode(pictures[0])) < 600  # and it shows the flat images and nothing else
    for path in home.iterdir():
        if path.is_file():
            assert b"pt-" not in path.read_bytes()
    beside = zones.pseudonymised / "models" / synthetic.model / "grids" / f"beside-{synthetic.synthetic}.png"
    assert beside.read_bytes().startswith(b"\x89PNG")


def test_images_of_another_cohort_are_refused_and_those_of_the_same_content_are_not(zones, validated, real, samples):
    """A night after one that changed the collection beside the cohort's images finds the model of before."""
    train, _ = samples
    synthetic = write_synthetic(zones, validated, real, train.stored[:20] // 2, train.class_index[:20])
    later = validated.cohort.model_copy(update={"cohort": "co-" + "1" * 32})
    home = cohorts.folder(later.cohort, zones=zones)
    shutil.copytree(cohorts.folder(validated.cohort.cohort, zones=zones), home)
    (home / cohorts.RECORD).write_bytes(later.canonical())
    other = later.model_copy(update={"content_sha256": "1" * 64})
    with pytest.raises(InvalidRequest, match="another cohort"):
        measure(synthetic, validated.model_copy(update={"cohort": other}), zones=zones)
    report = measure(synthetic, validated.model_copy(update={"cohort": later}), zones=zones)
    assert report.cohort == synthetic.cohort != later.cohort


def test_too_few_images_are_refused_with_the_number(samples):
    train, holdout = samples
    with pytest.raises(InvalidRequest, match="4 images"):
        compare(train.take(np.arange(4)), train, holdout, classes=2)


def test_utility_tells_useful_labels_from_random_ones(samples):
    train, holdout = samples
    test = (holdout.unit, holdout.class_index)
    assert utility.pca_logistic(train.unit, train.class_index, *test).auc > 0.93
    shuffled = np.random.default_rng(0).permutation(train.class_index)
    assert utility.pca_logistic(train.unit, shuffled, *test).auc < 0.65


def test_a_small_network_learns_useful_labels_and_nothing_from_random_ones(samples, monkeypatch):
    monkeypatch.setattr(utility, "_STEPS", 60)
    train, holdout = samples
    test = (holdout.unit, holdout.class_index)
    first, again = (utility.small_network(train.unit, train.class_index, *test) for _ in range(2))
    assert first == again
    assert first.auc > 0.9
    shuffled = np.random.default_rng(0).permutation(train.class_index)
    assert utility.small_network(train.unit, shuffled, *test).auc < 0.7


@pytest.mark.parametrize("size", [8, 32, 256])
def test_a_small_network_costs_no_more_for_larger_images(size):
    network = utility._network(size, classes=2)
    _, height, width = network[0](torch.zeros(1, 1, size, size))[0].shape
    assert height == width == min(size, 16)
    assert network.eval()(torch.zeros(1, 1, size, size)).shape == (1, 2)


def test_a_small_network_learns_nothing_from_one_class(samples):
    train, holdout = samples
    test = (holdout.unit, holdout.class_index)
    assert np.isnan(utility.small_network(train.unit, np.zeros(len(train), np.int64), *test).auc)


def test_a_sample_with_one_class_has_no_utility_but_is_measured(samples):
    train, holdout = samples
    one = Sample(stored=train.stored, class_index=np.zeros(len(train), np.int64), attrs=train.attrs)
    names = values(compare(one, train, holdout, classes=2))
    assert "tstr_auc" not in names
    assert "frechet" in names
    ill = float((train.class_index != 0).mean())
    assert names["label_fidelity"] == pytest.approx(1 - ill, abs=0.15)  # the other class's images are not recognised


def test_intensity_is_measured_in_physical_units(samples):
    train, holdout = samples
    attrs = {**train.attrs, "rescale_slope": 2.0, "rescale_intercept": -1000.0}
    moved = Sample(stored=train.stored, class_index=train.class_index, attrs={**attrs, "rescale_intercept": -990.0})
    real = Sample(stored=train.stored, class_index=train.class_index, attrs=attrs)
    held = Sample(stored=holdout.stored, class_index=holdout.class_index, attrs=attrs)
    assert np.allclose(moved.physical - real.physical, 10)
    result = next(m for m in compare(moved, real, held, classes=2).measures if m.name == "intensity_wasserstein")
    assert abs(result.value - result.reference) <= 10.001
    assert to_unit(np.array([0, 65535]), 0, 65535).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("rare", [0, 1, 3])
def test_a_rare_class_leaves_its_room_on_the_picture_to_the_others(rare):
    classes = np.repeat([0, 1], [rare, 200 - rare]).astype(np.int64)
    attrs = {"intensity_range": [0, 65535], "rescale_slope": 1.0, "rescale_intercept": 0.0}
    sample = Sample(stored=np.zeros((200, 16, 16), np.uint16), class_index=classes, attrs=attrs)
    even = Sample(stored=sample.stored, class_index=np.tile([0, 1], 100).astype(np.int64), attrs=attrs)
    assert _real_beside_synthetic(sample, even).startswith(b"\x89PNG")
    assert sorted(_first(sample, 200)) == list(range(200))


def test_a_curve_shows_no_bin_of_a_few_real_pixels(samples):
    """Ten pixels may be one patient's; a published histogram tells of eleven or more."""
    synthetic, train, holdout = (sample.take(np.arange(40)) for sample in (samples[0], *samples))
    for sample in (train, holdout):
        sample.stored[:] = sample.stored // 2
        sample.stored[0, 0, :10] = 65535
    curve = compare_module._curves(synthetic, train, holdout)["intensity_share"]
    assert curve["train"][-1] == curve["holdout"][-1] == 0
    assert sum(curve["synthetic"]) > 0.99
