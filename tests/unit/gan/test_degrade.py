"""What each degradation promises about its measurement, and what a projection may not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medgan.errors import InvalidRequest
from medgan.gan.degrade import TASKS, task
from medgan.gan.holes import Holes, dropped, patches, strokes
from medgan.gan.jpeg import Jpeg
from medgan.gan.kspace import KSpaceCrop, crop_matrix, fill_matrix
from medgan.gan.noise import LowDose, RicianNoise
from medgan.gan.plate import thin_plate
from tests.builders.cohort import radiographs


def picture(side=64):
    """A real radiograph, twice as large, in [-1, 1]."""
    pixels, _ = radiographs(4)
    whole = np.kron(pixels[1], np.ones((3, 3)))[:side, :side]
    return (whole / 127.5 - 1).astype(np.float32)


@pytest.mark.parametrize(("size", "small"), [(64, 32), (63, 21), (60, 15), (66, 33), (62, 31)])
def test_cropping_after_filling_k_space_changes_nothing(size, small):
    both = crop_matrix(size, small) @ fill_matrix(size, small)
    assert np.abs(both - np.eye(small)).max() < 1e-5
    assert np.allclose(crop_matrix(size, small).sum(1), 1, atol=1e-5)  # the mean is kept


@pytest.mark.parametrize("degradation", [KSpaceCrop(factor=2), KSpaceCrop(factor=4), Holes(), Jpeg()])
def test_a_projected_answer_never_contradicts_what_was_seen(degradation):
    rng = np.random.default_rng(0)
    truth = picture()
    measured = degradation.measure(truth, rng)
    wrong = (truth[::-1] + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
    before = np.abs(degradation.residual(wrong, measured)).max()
    right = degradation.project(torch.from_numpy(wrong)[None, None], [measured])[0, 0].numpy()
    assert before > 0.1
    assert np.abs(degradation.residual(right, measured)).max() < 1e-5
    again = degradation.project(torch.from_numpy(right)[None, None], [measured])[0, 0].numpy()
    assert np.abs(again - right).max() < 1e-5


def test_the_truth_survives_its_own_projection():
    truth = picture()
    for degradation in (KSpaceCrop(factor=2), Holes(), Jpeg()):
        measured = degradation.measure(truth, np.random.default_rng(1))
        kept = degradation.project(torch.from_numpy(truth)[None, None], [measured])[0, 0].numpy()
        assert np.abs(kept - truth).max() < 0.02, degradation.name


def test_a_slope_goes_on_through_a_hole_and_values_stay_within_what_is_known():
    rows, columns = np.mgrid[:40, :50]
    slope = (0.02 * rows - 0.01 * columns).astype(np.float32)
    hole = np.zeros(slope.shape, bool)
    hole[10:30, 15:50] = True  # up to the frame, where nothing is known beyond
    filled = thin_plate(np.where(hole, np.float32(-1), slope), hole)
    assert np.abs(filled - slope)[:, :32].max() < 0.02
    assert slope[~hole].min() <= filled.min() <= filled.max() <= slope[~hole].max()
    hole[:] = True
    hole[0, 0] = False
    assert np.abs(thin_plate(slope, hole) - slope[0, 0]).max() < 1e-6


def test_a_decoder_that_clips_does_not_make_the_truth_contradict_its_file():
    truth = np.full((64, 64), -1, np.float32)
    truth[19:45, 21:44] = 1
    measured = Jpeg().at(truth, 10)
    kept = Jpeg().project(torch.from_numpy(truth)[None, None], [measured])[0, 0].numpy()
    assert np.abs(measured.seen - truth).max() > 0.05
    assert np.abs(kept - truth).max() < 1e-5


def test_rician_noise_is_biased_where_there_is_no_signal():
    nothing = np.full((64, 64), -1, np.float32)
    measured = RicianNoise(sigma_from=0.05, sigma_to=0.05).measure(nothing, np.random.default_rng(0))
    assert (measured.seen >= -1).all()
    assert measured.seen.mean() + 1 == pytest.approx(2 * 0.05 * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh's mean


def ct_body(side):
    """A wide ellipse of water in air, and the noise of a scan of it, both in HU."""
    rows, columns = (np.mgrid[:side, :side] - (side - 1) / 2) / side
    body = np.where((rows / 0.2) ** 2 + (columns / 0.45) ** 2 < 1, 0, -1000)
    image = ((body + 1024) / 2047.5 - 1).astype(np.float32)
    measured = LowDose(sigma_from_hu=40, sigma_to_hu=40, kernel_from=9, kernel_to=9).measure(
        image, np.random.default_rng(0)
    )
    return measured, (measured.seen - image) * 2047.5


@pytest.mark.parametrize("side", [64, 512])
def test_noise_of_a_dose_has_the_strength_that_was_drawn_whatever_the_size(side):
    measured, noise = ct_body(side)
    assert float(np.sqrt(np.mean(noise**2))) == pytest.approx(40, rel=1e-3)
    assert measured.level * 2047.5 == pytest.approx(40)
    assert abs(noise.mean()) < 1


def test_noise_of_a_dose_is_strongest_and_streaked_where_rays_are_long():
    _, noise = ct_body(128)
    middle, corner = noise[48:80, 48:80], noise[:24, :24]
    assert middle.std() > 2 * corner.std()
    # Rays along the body's long axis (columns) are the weak ones: their noise varies from row to row.
    assert np.diff(middle, axis=0).std() > 1.15 * np.diff(middle, axis=1).std()


def test_noise_of_a_dose_has_little_of_low_frequencies():
    _, noise = ct_body(128)
    power = np.abs(np.fft.fft2(noise)) ** 2
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    assert power[(radius > 0.2) & (radius < 0.3)].mean() > 4 * power[(radius > 0) & (radius < 0.05)].mean()


def test_holes_cover_the_share_that_was_drawn():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.2, 0.4):
        assert share <= strokes((64, 80), share, rng).mean() < share + 0.06


def test_scanners_drop_whole_lines_and_small_round_patches():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lines = dropped((64, 80), rng)
        assert lines.any()
        assert (lines.all(0) == lines.any(0)).all() or (lines.all(1) == lines.any(1)).all()
        assert 0 < patches((64, 80), rng).mean() < 0.14


def test_a_denoised_magnitude_is_not_below_no_signal():
    truth = np.full((32, 32), -1, np.float32)
    measured = TASKS["denoise"].degradation.measure(truth, np.random.default_rng(0))
    answers = torch.from_numpy(np.linspace(-2, 2, 32 * 32, dtype=np.float32).reshape(1, 1, 32, 32))
    kept = TASKS["denoise"].degradation.project(answers, [measured])
    assert kept.min() == -1
    assert torch.equal(kept[answers >= -1], answers[answers >= -1])


@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_of_k_space_and_of_magnitudes_brings_any_answer_nearer_to_the_truth(seed):
    truth = picture()
    rng = np.random.default_rng(seed)
    measured = KSpaceCrop(factor=2).measure(truth, rng)
    poor = truth + rng.normal(0, 0.2, truth.shape).astype(np.float32)
    made = KSpaceCrop(factor=2).project(torch.from_numpy(poor)[None, None], [measured])[0, 0].numpy()
    seen_alone = KSpaceCrop(factor=2).project(
        torch.from_numpy(poor)[None, None], [replace(measured, floor=-np.inf)]
    )[0, 0].numpy()  # fmt: skip
    assert np.abs(KSpaceCrop(factor=2).residual(made, measured)).max() < 1e-4
    assert np.square(made - truth).sum() < np.square(seen_alone - truth).sum() < np.square(poor - truth).sum()


def test_a_task_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(InvalidRequest, match="super-resolution-x2"):
        task("sharpen")
