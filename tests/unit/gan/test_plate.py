"""Holes are filled by the plate that bends least, exactly while they are small, and in bounded time however large."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import laplace

from medgan.gan import plate
from medgan.gan.holes import strokes
from medgan.gan.plate import thin_plate


def waves(height: int, width: int) -> NDArray[np.float32]:
    """Smooth, in [-0.6, 0.6], and nowhere a plate."""
    rows, columns = np.mgrid[:height, :width]
    return (0.4 * np.sin(rows / 37) * np.cos(columns / 53) + 0.2 * np.sin((rows + columns) / 29)).astype(np.float32)


def rectangle(height: int, width: int, share: float) -> NDArray[np.bool_]:
    hole = np.zeros((height, width), bool)
    top, left = (round(side * (1 - share**0.5) / 2) for side in (height, width))
    hole[top : height - top, left : width - left] = True
    return hole


def beside_known_points() -> NDArray[np.bool_]:
    hole = np.ones((120, 131), bool)
    hole[5::32, 7::32] = False
    return hole


HOLES = {
    "a rectangle": rectangle(150, 163, 0.4),
    "strokes": strokes((150, 163), 0.4, np.random.default_rng(0)),
    "up to the frame": np.pad(np.ones((101, 90), bool), ((0, 40), (0, 31))),
    "all but single points": beside_known_points(),
}


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES.keys())
def test_coarser_grids_find_the_plate_that_the_factorized_system_has(hole, monkeypatch):
    seen = np.where(hole, np.float32(-1), waves(*hole.shape))
    exact = thin_plate(seen, hole)
    monkeypatch.setattr(plate, "DIRECT", 0)
    monkeypatch.setattr(plate, "_COARSEST", 500)  # several grids, as in a large hole
    gradual = thin_plate(seen, hole)
    assert not np.array_equal(gradual, exact)
    assert np.abs(gradual - exact).max() < 0.005
    assert np.array_equal(gradual[~hole], seen[~hole])


def test_a_small_hole_is_solved_to_the_last_digits():
    hole = HOLES["a rectangle"]
    filled = thin_plate(waves(*hole.shape), hole).astype(np.float64)
    forces = laplace(laplace(filled, mode="nearest"), mode="nearest")[hole]
    assert np.abs(forces).max() < 1e-5  # float32 keeps no more of the surface


def test_a_hole_of_forty_percent_of_a_radiograph_is_filled_without_a_step_or_a_kink_at_its_rim():
    hole = rectangle(1024, 1024, 0.4)
    truth = waves(1024, 1024)
    filled = thin_plate(np.where(hole, np.float32(-1), truth), hole)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[~hole], truth[~hole])
    assert truth[~hole].min() <= filled.min() <= filled.max() <= truth[~hole].max()
    usual = np.abs(np.diff(truth, axis=0)).max()
    assert np.abs(np.diff(filled, axis=0)).max() < 1.5 * usual
    assert np.abs(np.diff(filled, 2, axis=0)).max() < 0.1 * usual + 5 * np.abs(np.diff(truth, 2, axis=0)).max()
