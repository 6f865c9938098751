"""A generator that starts from a class's means and covariances is varied before it is trained, and tells of nobody."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medgan.errors import InvalidRequest
from medgan.gan import generator
from medgan.gan import sketch as sketches
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet, read_plain
from medgan.gan.sketch import SIDE, Sketch
from tests.unit.gan.builders import small_config, small_set


def coarse(images: TrainingSet) -> np.ndarray:
    unit, _ = images.batch(np.arange(len(images.pixels)))
    return unit[:, 0].reshape(len(unit), SIDE, 2, SIDE, 2).mean((2, 4)).reshape(len(unit), -1)


def learned(images: TrainingSet, groups: int = 1) -> Sketch:
    sketch = Sketch(len(images.classes), small_config(latent_dim=64, sketch=groups))
    sketch.learn(images)
    return sketch


def test_pictures_have_the_mean_and_the_covariance_of_their_class():
    images = small_set(400)
    sketch, z = learned(images), torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    for index in range(2):
        real = coarse(images)[images.class_index == index]
        made = sketch.pictures(z, torch.full((4000,), index)).flatten(1).numpy()
        assert np.abs(made.mean(0) - real.mean(0)).max() < 0.05
        kept = len(real) // 16
        largest = np.linalg.eigvalsh(np.cov(real.T))[::-1][:kept]
        assert np.allclose(np.linalg.eigvalsh(np.cov(made.T))[::-1][:kept], largest, rtol=0.15)


def test_a_class_of_two_clouds_is_drawn_as_two_clouds():
    images, z = small_set(600), torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    images.class_index[:] = 0
    images.pixels[::2] //= 8  # half of the class is dark
    brightness = np.sort(coarse(images).mean(1))
    low, high = brightness[299] + 0.05, brightness[330]  # few dark ones are brighter, few bright ones darker
    between = {}
    for groups in (1, 2):
        made = learned(images, groups).pictures(z, torch.zeros(2000, dtype=torch.int64)).mean((1, 2, 3)).numpy()
        between[groups] = ((made > low) & (made < high)).mean()
    assert between[1] > 0.2
    assert between[2] < 0.1


def test_groups_are_equally_large_and_small_classes_have_fewer():
    images = small_set(1100)
    images.class_index[:] = np.arange(1100) >= 700
    sketch = learned(images, 4)
    of_a, of_b, of_all = sketch.mean.view(3, 4, -1)
    assert [len(mean.unique(dim=0)) for mean in (of_a, of_b, of_all)] == [2, 1, 4]
    real = torch.from_numpy(coarse(images))
    assert torch.allclose(of_a.mean(0), real[:700].mean(0), atol=1e-5)
    assert torch.allclose(of_all.mean(0), real.mean(0), atol=1e-5)


def test_a_component_stands_for_sixteen_images_and_a_class_of_few_for_all():
    images = small_set(96)
    images.class_index[:] = 0
    images.class_index[:10] = 1
    sketch = learned(images)
    ranks = [int((basis.abs().sum(1) > 0).sum()) for basis in sketch.basis]
    assert ranks == [86 // 16, 86 // 16, 86 // 16]
    assert torch.equal(sketch.mean[1], sketch.mean[2])


def test_it_is_patients_that_are_counted_and_of_ten_nothing_is_taken():
    images = small_set(96)
    images.class_index[:] = np.arange(96) >= 40
    people = np.arange(96)
    people[:40] = people[:40] % 4  # the first class is forty images of four people
    sketch = learned(dataclasses.replace(images, patients=people))
    others = torch.from_numpy(coarse(images)[40:].mean(0)).float()
    assert torch.allclose(sketch.mean, others.expand(3, -1), atol=1e-5)
    few = learned(dataclasses.replace(images, patients=np.arange(96) % 10))
    assert not few.mean.any()
    assert not few.basis.any()
    assert not few.trust.any()


def test_a_class_of_few_is_in_no_statistics_so_no_subtraction_uncovers_it():
    images = small_set(96)
    images.class_index[:] = 0
    images.class_index[:10] = 1
    before = learned(images)
    images.pixels[:10] = 0
    after = learned(images)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.basis, after.basis)


def test_groups_and_components_count_patients_and_each_weighs_as_much_as_any_other():
    images = small_set(1100)
    images.class_index[:] = 0
    few = learned(dataclasses.replace(images, patients=np.arange(1100) % 200), 4)
    assert len(few.mean[:4].unique(dim=0)) == 1
    assert int((few.basis[0].abs().sum(1) > 0).sum()) == 200 // 16
    people = np.minimum(np.arange(1100), 300)  # eight hundred images of the last one
    sketch = learned(dataclasses.replace(images, patients=people))
    real = coarse(images)
    each = np.concatenate([real[:300], real[300:].mean(0, keepdims=True)])
    assert np.allclose(sketch.mean[0], each.mean(0), atol=1e-5)


def test_one_strange_patient_is_no_component():
    images = small_set(600)
    images.class_index[:] = 0
    images.pixels[7] = np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((2, 2))) * 65535
    axis = coarse(images)[7] - coarse(images).mean(0)
    basis = learned(images).basis[0].numpy()
    basis = basis[np.abs(basis).sum(1) > 0]
    near = np.abs(basis @ axis) / np.linalg.norm(basis, axis=1) / np.linalg.norm(axis)
    assert len(basis) > 20
    assert near.max() < 0.6


def test_images_are_held_only_as_far_as_their_own_sketch_says_how_pictures_differ():
    images = small_set(96)
    images.class_index[:] = 0
    images.class_index[:10] = 1
    sketch = learned(images)
    assert sketch.trust.tolist() == pytest.approx([5 / 16, 0, 5 / 16])
    z, x = torch.randn(8, 64), torch.ones(8, 1, 32, 32)
    assert sketch.strayed(x, z, torch.zeros(8, dtype=torch.int64)) > 0
    assert sketch.strayed(x, z, torch.ones(8, dtype=torch.int64)) == 0
    whole = small_set(600)
    whole.class_index[:] = 0
    assert learned(whole).trust[0] == 1


def test_patients_of_a_plain_file_are_counted_too(tmp_path):
    images = small_set(96)
    np.savez(tmp_path / "set.npz", images=images.pixels, labels=images.class_index, patients=np.arange(96) % 3)
    assert not learned(read_plain(tmp_path / "set.npz")).mean.any()
    with pytest.raises(InvalidRequest, match="patients"):
        dataclasses.replace(images, patients=np.arange(95))


@pytest.mark.parametrize("size_px", [16, 32])
def test_an_untrained_generator_makes_pictures_as_varied_as_real_ones(size_px):
    images, z = small_set(400), torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    images = dataclasses.replace(images, pixels=images.pixels[:, :: 32 // size_px, :: 32 // size_px])
    spread = {}
    for sketch in (0, 1):
        network = generator.build(small_config(sketch=sketch, size_px=size_px), 2)
        network.learn(images)
        with torch.inference_mode():
            made = network(z, torch.zeros(200, dtype=torch.int64)).flatten(1).numpy()
        spread[sketch] = made.std(0).mean() / images.batch(np.flatnonzero(images.class_index == 0))[0].std(0).mean()
    assert spread[0] < 0.45
    assert 0.6 < spread[1] < 1.3


def test_held_to_its_sketch_a_generator_stays_nearer_to_it(tmp_path):
    images, z = small_set(), torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    strayed = {}
    for weight in (0.0, 100.0):
        config = small_config(sketch=1, sketch_weight=weight, total_kimg=0.4)
        fit(images, config, tmp_path / str(weight))
        network = generator.build(config, 2)
        network.learn(images)
        network.load_state_dict(load_file(tmp_path / str(weight) / "generator.safetensors"))
        c = torch.arange(64) % 2
        with torch.inference_mode():
            strayed[weight] = float(network.sketch.strayed(network.eval()(z, c), z, c))
    assert strayed[100.0] < 0.7 * strayed[0.0]
    with pytest.raises(InvalidRequest, match="needs a sketch"):
        small_config(sketch_weight=1.0)


def test_a_sketched_run_goes_on_bit_for_bit_and_its_statistics_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(sketches, "_TOGETHER", 8)  # so that few images fall into groups
    config, images = small_config(sketch=2, sketch_weight=1.0), small_set()
    assert len(learned(images, 2).mean.unique(dim=0)) == 6
    fit(images, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(images, config, tmp_path / "broken", on_tick=interrupt)
    fit(images, config, tmp_path / "broken")
    whole, broken = ((tmp_path / name / "generator.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


def interrupt(_tick):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changes",
    [{"backbone": "dense"}, {"backbone": "residual", "widths": (32, 16, 16, 8)}, {"size_px": 16, "widths": (8, 8)}],
)
def test_a_sketch_needs_a_ladder_that_ends_in_tanh_and_passes_its_size(changes):
    with pytest.raises(InvalidRequest, match="sketch"):
        small_config(sketch=1, **changes)


def test_groups_are_a_power_of_two():
    with pytest.raises(InvalidRequest, match="groups"):
        small_config(sketch=3)


def test_a_configuration_without_later_choices_keeps_the_name_it_had():
    config = small_config()
    assert config.digest == "92e8db16218f533ec5f3b126bbfed4e8d4016489e7d93183f1b225ae69d186f9"
    one_group = small_config(sketch=True)  # as it was written when there was no number, with other statistics
    assert one_group.digest != "6f7c81b750bfd83ec14a23094272aac5eaea9d19070cb3cb98adc78116e02220"
    assert small_config(sketch=1).digest == one_group.digest
    assert small_config(sketch=2).digest != config.digest != small_config(spectrum_target="classes").digest
