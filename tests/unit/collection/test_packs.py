import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from medgan.collection import packs
from medgan.errors import IntegrityError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(packs, "CHUNK_BYTES", 128)
    monkeypatch.setattr(packs, "SHARD_BYTES", 512)


def random_frames(count, shape=(4, 5), dtype=np.int16, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(-1000, 1000, size=(count, *shape)).astype(dtype))


def rows(kind, indices):
    return pd.DataFrame({"pack": [kind] * len(indices), "pack_index": indices})


@settings(max_examples=25, deadline=None)
@given(nights=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_frames_come_back_bit_equal_in_any_order_however_the_nights_fell(nights, seed):
    root = zarr.create_group(zarr.storage.MemoryStore(), zarr_format=3)
    everything = random_frames(sum(nights), seed=seed)
    done = 0
    for night in nights:
        assert packs.append(root, "4x5-int16", iter(everything[done : done + night])) == done
        done += night
    order = np.random.default_rng(seed).permutation(done)
    for index, frame in zip(order, packs.frames(root, rows("4x5-int16", order.tolist())), strict=True):
        assert frame.dtype == np.int16
        np.testing.assert_array_equal(frame, everything[index])


def test_kinds_do_not_mix_and_colour_keeps_its_samples():
    root = zarr.create_group(zarr.storage.MemoryStore(), zarr_format=3)
    grey, colour = random_frames(3, (4, 5), np.int16), random_frames(2, (4, 5, 3), np.uint8)
    packs.append(root, "4x5-int16", grey)
    packs.append(root, "4x5x3-uint8", colour)
    wanted = pd.concat([rows("4x5x3-uint8", [1]), rows("4x5-int16", [2])])
    first, second = packs.frames(root, wanted)
    np.testing.assert_array_equal(first, colour[1])
    np.testing.assert_array_equal(second, grey[2])


def test_many_small_images_are_few_objects(tmp_path, monkeypatch):
    monkeypatch.undo()
    root = zarr.create_group(tmp_path / "c", zarr_format=3)
    packs.append(root, "28x28-uint8", iter(np.zeros((5000, 28, 28), np.uint8) + np.arange(5000)[:, None, None] % 251))
    assert sum(path.is_file() for path in (tmp_path / "c").rglob("*")) < 10


def test_a_blanked_frame_is_zero_and_its_neighbours_are_not_touched():
    root = zarr.create_group(zarr.storage.MemoryStore(), zarr_format=3)
    kept = random_frames(30)
    packs.append(root, "4x5-int16", kept)
    packs.blank(root, "4x5-int16", [3, 4, 17])
    for index, frame in enumerate(packs.frames(root, rows("4x5-int16", list(range(30))))):
        np.testing.assert_array_equal(frame, np.zeros((4, 5)) if index in {3, 4, 17} else kept[index])


def test_a_flipped_bit_is_refused(tmp_path):
    root = zarr.create_group(tmp_path / "c", zarr_format=3)
    packs.append(root, "4x5-int16", random_frames(12))
    shard = next(path for path in (tmp_path / "c").rglob("*") if path.is_file() and path.name == "0")
    damaged = bytearray(shard.read_bytes())
    damaged[20] ^= 4
    shard.write_bytes(damaged)
    with pytest.raises(IntegrityError):
        list(packs.frames(root, rows("4x5-int16", list(range(12)))))


@pytest.mark.parametrize("wanted", [("4x5-int16", [99]), ("9x9-int16", [0])])
def test_a_frame_that_is_not_there_is_an_integrity_error(wanted):
    root = zarr.create_group(zarr.storage.MemoryStore(), zarr_format=3)
    packs.append(root, "4x5-int16", random_frames(5))
    with pytest.raises(IntegrityError):
        list(packs.frames(root, rows(*wanted)))
