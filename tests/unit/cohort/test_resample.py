import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgan.cohort import resample


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 80), columns=st.integers(1, 80), size=st.sampled_from([8, 28, 32, 64]))
def test_a_flat_image_stays_flat_whatever_its_shape(rows, columns, size):
    square = resample.to_square(np.full((rows, columns), 7.0), size)
    assert square.shape == (size, size)
    np.testing.assert_allclose(square, 7.0)


def test_reducing_keeps_the_mean_and_does_not_alias():
    stripes = np.tile([0.0, 1.0], (64, 32))
    reduced = resample.to_square(stripes, 16)
    np.testing.assert_allclose(reduced, 0.5, atol=0.07)


def test_enlarging_is_bilinear_at_pixel_centres():
    enlarged = resample.to_square(np.array([[0.0, 1.0], [0.0, 1.0]]), 4)
    np.testing.assert_allclose(enlarged, np.tile([0, 0.25, 0.75, 1], (4, 1)))


def test_the_aspect_is_kept_in_millimetres_and_the_rest_is_padded_with_the_lowest_value():
    image = np.full((10, 10), 5.0)
    image[0, 0] = 1.0
    tall = resample.to_square(image, 32, spacing_mm=(2.0, 1.0))
    assert np.all(tall[:, :8] == 1.0)
    assert np.all(tall[:, 24:] == 1.0)
    assert np.median(tall[:, 8:24]) == 5.0


def test_monochrome1_is_mirrored_so_that_more_is_brighter():
    stored = np.array([[0, 100], [200, 4000]], np.uint16)
    mirrored = resample.to_physical(stored, slope=1.0, intercept=0.0, inverted=True)
    np.testing.assert_array_equal(mirrored, [[4000, 3900], [3800, 0]])


def test_rescale_gives_modality_units():
    np.testing.assert_array_equal(
        resample.to_physical(np.array([[0, 1024]], np.int16), slope=1.0, intercept=-1024.0, inverted=False),
        [[-1024, 0]],
    )


@settings(max_examples=40, deadline=None)
@given(low=st.floats(-2000, 2000), width=st.floats(1, 5000), seed=st.integers(0, 9))
def test_a_round_trip_through_stored_values_is_within_half_a_step(low, width, seed):
    values = low + width * np.random.default_rng(seed).random((8, 8))
    stored = resample.to_stored(values, (low, low + width))
    assert stored.dtype == np.uint16
    back = low + stored * (width / resample.STORED_MAX)
    assert np.abs(back - values).max() <= 0.5001 * width / resample.STORED_MAX


@pytest.mark.parametrize(("value", "stored"), [(-5.0, 0), (0.0, 0), (1.0, 65535), (9.0, 65535)])
def test_what_is_outside_the_window_is_clipped(value, stored):
    assert resample.to_stored(np.array([[value]]), (0.0, 1.0)).item() == stored


def test_a_constant_image_has_a_window_too():
    low, high = resample.window_of(np.full((4, 4), 3.0), (0.1, 99.9))
    assert low == 3.0
    assert high > low
