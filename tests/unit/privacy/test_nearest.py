from __future__ import annotations

import numpy as np
import pytest

from medgan.privacy import embedding, views, warps
from medgan.privacy.nearest import correlation, nearest, nearest_in_each


@pytest.fixture(scope="module")
def fitted(case):
    return embedding.fit(case.real.train, seed=0)


def test_a_whole_pixel_shift_is_exact():
    image = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    seen = warps.matrix(warps.Warp(dy=2, dx=-1), 32) @ image.ravel()
    inner = image[warps.margin(32) + 2 : 32 - warps.margin(32) + 2, warps.margin(32) - 1 : 32 - warps.margin(32) - 1]
    assert np.array_equal(seen.reshape(inner.shape), inner)


def test_a_flip_is_exact_and_rows_are_weights():
    image = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    window = slice(warps.margin(32), 32 - warps.margin(32))
    seen = warps.matrix(warps.Warp(flip=True), 32) @ image.ravel()
    assert np.array_equal(seen.reshape(26, 26), image[:, ::-1][window, window])
    for warp in warps.aligned_warps():
        assert warps.matrix(warp, 32).sum(axis=1) == pytest.approx(-1 if warp.negative else 1, abs=1e-5)


def test_nearest_is_what_a_plain_loop_finds(case, fitted):
    queries, real = case.real.holdout_1[:5], case.real.train[:40]
    found = nearest(queries, real, fitted)
    originals = fitted.vectors(views.unit(real), warps.Warp())
    for band in ("E1", "E2"):
        table = np.array(
            [fitted.vectors(views.unit(queries), warp)[band] @ originals[band].T for warp in warps.aligned_warps()]
        )
        assert found[band].similarity == pytest.approx(table.max(axis=(0, 2)), abs=1e-5)
        asked = table.max(axis=(0, 1)) if band == "E2" else np.empty(0)
        assert found[band].of_real == pytest.approx(asked, abs=1e-5)
        assert found[band].index.tolist() == table.max(axis=0).argmax(axis=1).tolist()


def test_a_margin_is_taken_beside_the_fifth_patient_and_not_beside_exposures_of_one(case, fitted):
    queries, real = case.real.holdout_1[:4], case.real.train[:40]
    patients = (np.arange(40) // 4).astype(object)
    shuffled = np.random.default_rng(0).permutation(40)
    found = nearest(queries, real[shuffled], fitted, patients=patients[shuffled])["E2"]
    originals = fitted.vectors(views.unit(real), warps.Warp())["E2"]
    table = np.max(
        [fitted.vectors(views.unit(queries), warp)["E2"] @ originals.T for warp in warps.aligned_warps()], axis=0
    )
    fifth = np.sort(table.reshape(4, 10, 4).max(axis=2), axis=1)[:, -5]
    assert found.margin == pytest.approx(np.log((1 - fifth) / (1 - table.max(axis=1))), abs=1e-4)


def test_two_sets_at_one_look_are_what_each_is_alone(case, fitted):
    queries, sets = case.real.holdout_1[:6], [(case.real.train[:30], None), (case.real.holdout_2[:20], None)]
    for together, (real, _) in zip(nearest_in_each(queries, sets, fitted), sets, strict=True):
        alone = nearest(queries, real, fitted)
        for band, near in alone.items():
            assert np.array_equal(together[band].index, near.index)
            assert together[band].margin == pytest.approx(near.margin, abs=1e-4)
            assert together[band].of_real == pytest.approx(near.of_real, abs=1e-5)


def test_what_all_synthetic_images_have_in_common_becomes_no_direction_that_hides_their_copies(case):
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 0.16 - 0.08).astype(np.float32)
    originals = case.real.train[:100]
    copies = np.clip(originals + board, 0, 1)
    seen = embedding.fit(np.concatenate([case.real.train[:400], copies]), seed=0, synthetic=100)
    first, second = (seen.vectors(views.unit(images), warps.Warp())["E1"] for images in (copies, originals))
    assert np.quantile((first * second).sum(axis=1), 0.1) > 0.95  # 0.8 where the board is a direction


@pytest.mark.parametrize("change", ["copy", "shift", "flip"])
def test_a_moved_copy_has_similarity_one(case, fitted, change):
    rows = np.arange(30)
    queries = views.changed(change, case.real.train[rows], np.random.default_rng(0))
    found = nearest(queries, case.real.train, fitted)
    for band in found.values():
        assert band.similarity.min() > 0.99
    assert correlation(queries, case.real.train, found["E2"].index, found["E2"].warp).min() > 0.99


def test_no_patient_is_compared_with_itself(case, fitted):
    rows = np.arange(20)
    patients = case.real.train_patients
    found = nearest(case.real.train[rows], case.real.train, fitted, patients=patients, apart=patients[rows])
    assert not np.any(found["E2"].index == rows)


def test_views_made_when_they_are_asked_for_are_those_that_are_all_there(case, fitted):
    stored = np.round(case.real.train[:90] * 65535).astype(np.uint16)
    whole, asked = views.to_view(stored, (0, 65535)), views.StoredViews(stored, (0, 65535))
    assert (len(asked), asked.shape) == (len(whole), whole.shape)
    some = np.array([3, 80, 1])
    assert np.array_equal(asked[some], whole[some])
    found, expected = (nearest(queries, queries, fitted)["E2"] for queries in (asked, whole))
    assert np.array_equal(found.index, expected.index)
    assert np.array_equal(
        correlation(asked, asked, some[[0, 1, 2] * 30], found.warp),
        correlation(whole, whole, some[[0, 1, 2] * 30], found.warp),
    )


def test_larger_images_are_averaged_over_whole_pixels():
    stored = np.random.default_rng(0).integers(0, 65536, (2, 128, 128)).astype(np.uint16)
    view = views.to_view(stored, (0, 65535))
    assert view.shape == (2, 64, 64)
    assert view == pytest.approx(stored.reshape(2, 64, 2, 64, 2).mean(axis=(2, 4)) / 65535, abs=1e-6)


@pytest.mark.parametrize(
    "hidden",
    [
        lambda x: np.rot90(x, 1, (1, 2)),
        lambda x: np.rot90(x, 3, (1, 2)),
        lambda x: x[:, ::-1],
        lambda x: x.transpose(0, 2, 1),
        lambda x: 1 - x,
        lambda x: 1 - x[:, :, ::-1],
        lambda x: 1 - np.rot90(x, 1, (1, 2)),
        lambda x: np.pad(x, ((0, 0), (3, 0), (0, 0)), mode="edge")[:, :32],
        lambda x: np.pad(x, ((0, 0), (0, 3), (3, 0)), mode="edge")[:, 3:, :32],
    ],
    ids=[
        "quarter",
        "three quarters",
        "upside down",
        "transposed",
        "negative",
        "mirrored negative",
        "both",
        "down",
        "up",
    ],
)
def test_a_copier_cannot_hide_behind(case, fitted, hidden):
    originals = case.real.train[:20]
    found = nearest(hidden(originals).astype(np.float32), case.real.train, fitted)
    assert np.array_equal(found["E2"].index, np.arange(20))
    assert found["E2"].similarity.min() > 0.9
    assert (
        correlation(hidden(originals).astype(np.float32), case.real.train, found["E2"].index, found["E2"].warp).min()
        > 0.999
    )


def test_a_constant_image_is_near_nothing(case, fitted):
    found = nearest(np.full((1, 32, 32), 0.5, np.float32), case.real.train, fitted)
    assert np.isfinite(found["E2"].similarity).all()
    assert found["E2"].similarity.max() < 0.9


def test_the_same_images_give_the_same_embedding(case, fitted):
    assert embedding.fit(case.real.train, seed=0).digest == fitted.digest
    assert embedding.fit(case.real.train, seed=1).digest != fitted.digest
