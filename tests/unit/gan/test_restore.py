"""A restorer trained for seconds: better than nothing, honest about the rest, and stopped where it knows nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medgan.errors import IntegrityError, InvalidRequest
from medgan.gan import restore
from medgan.gan.degrade import TASKS
from medgan.gan.repair import DESCRIPTION, WEIGHTS, Restorer, Unfamiliar
from medgan.gan.restore_config import CODE_VERSION, RestoreConfig
from medgan.gan.restorer import Shape
from medgan.gan.scans import Scans, by_percentiles, halved, stripped, windows
from tests.builders.cohort import radiographs

SMALL = RestoreConfig(
    task="denoise",
    steps=120,
    adversarial_steps=12,
    window_px=32,
    batch=8,
    learning_rate=3e-3,
    penalty_every=4,
    shape=Shape(widths=(24, 32, 48), blocks=1, critic_widths=(8, 16)),
    tick_steps=24,
)


def scans(count=120):
    pixels, _ = radiographs(count)
    images = [(np.pad(one, 6, mode="edge") / 127.5 - 1).astype(np.float32) for one in pixels]
    return Scans(images=images, patient=np.arange(count))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restorer")
    return restore.fit(scans(), SMALL, folder, attrs={"modality": "DX"})


def noisy(seed=0):
    truth = scans(40).images[7]
    return truth, TASKS["denoise"].degradation.measure(truth, np.random.default_rng(seed)).seen


def test_it_removes_noise_from_patients_it_has_not_seen(trained):
    assert trained.held_out["patients"] == 12
    assert trained.held_out["psnr_db"] > trained.held_out["naive_psnr_db"] + 0.5


def test_values_come_back_in_the_unit_they_came_in(trained):
    truth, seen = noisy()
    made = trained.restore(seen * 500 + 700)
    assert made.image.shape == seen.shape
    assert abs(float(made.image.mean()) - float(seen.mean() * 500 + 700)) < 60
    assert np.abs(made.image - (truth * 500 + 700)).mean() < np.abs(seen - truth).mean() * 500


def test_a_restored_magnitude_is_not_negative_and_other_images_may_be(trained):
    _, seen = noisy()
    assert trained.restore((seen + 1) * 500).image.min() >= -1e-3
    assert trained.restore((seen + 1) * 500 - 2000).image.min() < -1900


def test_the_bound_covers_errors_of_strangers(trained):
    inside = []
    for seed in range(6):
        truth, seen = noisy(seed)
        made = trained.restore(seen, window=(-1, 1))
        inside.append((np.abs(made.image - truth) <= made.uncertainty).mean())
    assert 0.85 < np.mean(inside) <= 1


def test_the_same_run_gives_the_same_weights_and_a_killed_one_goes_on(trained, tmp_path):
    def killed(progress):
        if progress.step == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore.fit(scans(), SMALL, tmp_path, attrs={"modality": "DX"}, on_tick=killed)
    assert restore.fit(scans(), SMALL, tmp_path, attrs={"modality": "DX"}).sha256 == trained.sha256


def test_what_it_has_never_seen_is_refused(trained):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for foreign in (rng.random((64, 64)), (np.sin(rows) * np.cos(columns)), np.eye(64)):
        with pytest.raises(Unfamiliar, match="trained on such images"):
            trained.restore(foreign)
    assert trained.restore(rng.random((64, 64)), refuse=False).distance > 1


def test_an_image_of_half_the_resolution_is_familiar(tmp_path):
    rng = np.random.default_rng(0)
    images = [by_percentiles(gaussian_filter(rng.standard_normal((72, 72)), 4)) for _ in range(136)]
    few = replace(SMALL, steps=2, adversarial_steps=0)
    model = restore.fit(Scans(images=images[:96], patient=np.arange(96) // 2), few, tmp_path, attrs={})
    assert sum(model.strangeness(halved(one)) > model.familiar.limit for one in images[96:]) <= 2


def test_an_image_and_its_mirror_image_have_the_same_answer(trained):
    _, seen = noisy()
    image = trained.restore(seen, window=(-1, 1)).image
    assert np.abs(trained.restore(seen[:, ::-1].copy(), window=(-1, 1)).image[:, ::-1] - image).max() < 1e-2


def test_a_model_states_how_often_it_removed_and_added(trained):
    assert trained.planted["cases"] > 0
    assert trained.planted["patients"] == trained.held_out["patients"] == 12
    assert trained.planted["unannounced"] <= trained.planted["added"]
    assert 0 <= trained.planted["removed"] / trained.planted["cases"] <= trained.planted["removed_at_most"] <= 1


@pytest.mark.parametrize(("patients", "held"), [(2, 1), (8, 2), (40, 10), (60, 10), (120, 12)])
def test_up_to_a_quarter_of_few_patients_calibrates(patients, held):
    every = Scans(images=[np.zeros((32, 32), np.float32)] * 120, patient=np.arange(120) * patients // 120)
    rows, others = (set(every.patient[part]) for part in every.split())
    assert (len(rows), len(others)) == (patients - held, held)


def test_changed_weights_are_not_used(trained, tmp_path):
    for path in trained_folder(trained).iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError):
        Restorer(tmp_path)


def test_a_restorer_that_learned_from_another_versions_inputs_is_not_used(trained, tmp_path):
    for name in (WEIGHTS, DESCRIPTION):
        (tmp_path / name).write_bytes((trained_folder(trained) / name).read_bytes())
    assert Restorer(tmp_path).sha256 == trained.sha256
    described = json.loads((tmp_path / DESCRIPTION).read_bytes())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**described, "code_version": CODE_VERSION - 1}))
    with pytest.raises(InvalidRequest, match="train it again"):
        Restorer(tmp_path)


def trained_folder(trained):
    return trained.folder


@pytest.mark.parametrize("broken", [np.zeros((8, 8)), np.full((64, 64), np.nan), np.zeros((2, 64, 64))])
def test_no_image_is_told_so(trained, broken):
    with pytest.raises(InvalidRequest, match="plane of finite values"):
        trained.restore(broken)


def test_windows_that_show_nothing_are_drawn_again():
    corner = np.full((256, 256), -1, np.float32)
    corner[:64, :64] = np.linspace(-1, 1, 64)
    rng = np.random.default_rng(0)
    config = replace(SMALL, window_px=128, batch=8)
    scans = Scans(images=[corner], patient=np.zeros(1))
    cut = np.stack([window for _ in range(8) for window in windows(scans, [0], config, rng)])
    assert (cut.std((1, 2)) > 0.05).mean() > 0.4  # a fifth of the places shows anything


def test_a_stripped_window_ends_in_no_signal_and_keeps_the_rest():
    window = np.linspace(-0.5, 0.9, 64 * 64, dtype=np.float32).reshape(64, 64)
    for seed in range(5):
        made = stripped(window, np.random.default_rng(seed))
        gone = made == -1
        assert 0.09 < gone.mean() < 0.61
        assert np.array_equal(made[~gone], window[~gone])
        assert (np.abs(np.diff(gone.astype(int), axis=1)).sum(1)).mean() < 16  # regions, not speckles


def test_only_the_asked_share_of_windows_is_stripped():
    bright = Scans(images=[np.tile(np.linspace(-0.5, 1, 64, dtype=np.float32), (64, 1))], patient=np.zeros(1))

    def share(asked):
        rng, config = np.random.default_rng(0), replace(SMALL, stripped_share=asked, batch=64)
        return np.mean([(one == -1).any() for one in windows(bright, [0], config, rng)])

    assert share(0.0) == 0
    assert 0.3 < share(0.5) < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_px": 20}, "window_px"),
        ({"optimiser": "adamw"}, "optimiser"),
        ({"stripped_share": 1.5}, "stripped_share"),
        ({"stripped_share": float("nan")}, "stripped_share"),
    ],
)
def test_a_configuration_that_cannot_train_is_refused(changes, message):
    with pytest.raises(InvalidRequest, match=message):
        replace(SMALL, **changes)


def test_how_sharp_an_answer_is_to_be_follows_from_the_task_unless_it_is_said():
    """Of four times as fine a grid most is unknown: as sharp as the truth it would be wrong by 1 dB more."""
    twice, four_times = (replace(SMALL, task=f"super-resolution-x{factor}") for factor in (2, 4))
    assert twice.aim < four_times.aim < 1
    assert replace(four_times, spectrum_share=0.1).aim == 0.1


def test_a_configuration_travels_as_json():
    assert RestoreConfig.from_json(json.loads(json.dumps(asdict(SMALL)))) == SMALL
