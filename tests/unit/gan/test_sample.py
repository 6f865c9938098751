"""Seed and id decide an image, whoever asks, in whatever company; intensity survives the trip."""

import pickle

import numpy as np
import pytest

from medgan.errors import Conflict, IntegrityError, InvalidRequest
from medgan.gan.fit import fit
from medgan.gan.images import to_stored, to_unit
from medgan.gan.sample import Sampler, open_generator
from medgan.gan.train import load, train
from medgan.records import TrainRequest
from medgan.settings import Zones
from tests.builders.cohort import pneumonia_cohort
from tests.unit.gan.builders import small_config, small_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    fit(small_set(), small_config(total_kimg=0.064), folder)
    return folder


def test_any_grouping_gives_the_same_bytes(folder):
    ids = np.arange(48)
    classes = ids % 2
    whole = Sampler(folder).images(ids, classes, seed=7)
    parts = [Sampler(folder).images(ids[s : s + 16], classes[s : s + 16], seed=7) for s in (32, 0, 16)]
    assert np.array_equal(whole, np.concatenate([parts[1], parts[2], parts[0]]))
    shuffled = np.random.default_rng(0).permutation(48)
    assert np.array_equal(whole[shuffled], Sampler(folder).images(ids[shuffled], classes[shuffled], seed=7))
    assert np.array_equal(whole[5:6], Sampler(folder).images(ids[5:6], classes[5:6], seed=7))


def test_seed_id_and_class_each_change_the_image(folder):
    sampler, one = Sampler(folder), np.array([3])
    first = sampler.images(one, np.array([0]), seed=1)
    assert first.dtype == np.uint16
    assert not np.array_equal(first, sampler.images(one, np.array([0]), seed=2))
    assert not np.array_equal(first, sampler.images(np.array([4]), np.array([0]), seed=1))
    assert not np.array_equal(first, sampler.images(one, np.array([1]), seed=1))


def test_sampler_travels_as_a_path(folder):
    sampler = Sampler(folder)
    expected = sampler.images(np.arange(3), np.zeros(3, int), seed=0)
    packed = pickle.dumps(sampler)
    assert len(packed) < 1000
    again = pickle.loads(packed)  # noqa: S301 - made two lines above
    assert np.array_equal(again.images(np.arange(3), np.zeros(3, int), seed=0), expected)


def test_nonsense_is_refused(folder):
    sampler = Sampler(folder)
    with pytest.raises(InvalidRequest, match="one length"):
        sampler.images(np.arange(3), np.zeros(2, int), seed=0)
    with pytest.raises(InvalidRequest, match="twice"):
        sampler.images(np.array([1, 1]), np.zeros(2, int), seed=0)
    with pytest.raises(InvalidRequest, match="2 classes"):
        sampler.images(np.arange(1), np.array([3]), seed=0)
    with pytest.raises(InvalidRequest, match="no finished model"):
        Sampler(folder / "nowhere")


def test_intensity_round_trip_is_exact_to_half_a_step():
    stored = np.arange(0, 65536, dtype=np.uint16)
    back = to_stored(to_unit(stored, 0, 65535).astype(np.float64), 0, 65535).astype(int)
    assert np.abs(back - stored).max() <= 1  # float32 has 24 bits, half a step of 16
    narrow = np.arange(0, 4096, dtype=np.uint16)
    assert np.array_equal(to_stored(to_unit(narrow, 0, 4095), 0, 4095), narrow)


PATHS = {
    "whole by a last upsampling": {},
    "with a filter": {"match_spectrum": True},
    "a stage at full resolution": {"widths": (32, 16, 8, 8)},
    "free kernels": {"resample_g": "strided"},
    "residual": {"backbone": "residual", "widths": (32, 16, 8, 8)},
    "dense": {"backbone": "dense"},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", PATHS.values(), ids=PATHS)
def test_a_cohort_of_256_images_shows_4096_grey_levels_whatever_made_it(tmp_path, network, precision):
    fit(small_set(), small_config(total_kimg=0.032, norm_g="none", **network), tmp_path)
    ids = np.arange(256)
    made = Sampler(tmp_path, precision=precision).images(ids, ids % 2, seed=1)
    assert len(np.unique(made)) >= 4096


def test_training_a_cohort_is_found_again_and_opens(tmp_path):
    zones = Zones.under(tmp_path)
    cohort = pneumonia_cohort(zones, images=160)
    request = TrainRequest(recipe="xray_32_cpu", seed=1, total_kimg=0.064)
    ticks = []
    model = train(cohort, request, zones=zones, on_tick=ticks.append)
    assert ticks
    assert model.kimg == 0.064
    assert train(cohort, request, zones=zones, on_tick=lambda _: pytest.fail("trained twice")) == model
    assert train(cohort, request.model_copy(update={"seed": 2}), zones=zones).model != model.model
    images = open_generator(model, zones=zones).images(np.arange(4), np.array([0, 1, 0, 1]), seed=0)
    assert images.shape == (4, 32, 32)
    assert open_generator(model.model, zones=zones).attrs["units"] == "1"

    weights = zones.pseudonymised / "models" / model.model / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(IntegrityError):
        open_generator(model, zones=zones).images(np.arange(1), np.array([0]), seed=0)
    assert load(weights.parent) is None
    assert train(cohort, request, zones=zones).generator_sha256 == model.generator_sha256


def test_one_process_trains_a_model_and_clears_what_a_killed_one_left(tmp_path):
    zones = Zones.under(tmp_path)
    cohort = pneumonia_cohort(zones, images=160)
    request = TrainRequest(recipe="xray_32_cpu", seed=1, total_kimg=0.064)
    left = []

    def at_a_tick(tick):
        with pytest.raises(Conflict, match="another process"):
            train(cohort, request, zones=zones)
        left.append(tick.grid.parents[1] / ".state.safetensors.7.partial")
        left[0].write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cohort, request, zones=zones, on_tick=at_a_tick)
    train(cohort, request, zones=zones)
    assert not left[0].exists()


def test_unknown_recipe_is_refused(tmp_path):
    zones = Zones.under(tmp_path)
    with pytest.raises(InvalidRequest, match="xray_32_cpu"):
        train(pneumonia_cohort(zones, images=160), TrainRequest(recipe="nothing"), zones=zones)
