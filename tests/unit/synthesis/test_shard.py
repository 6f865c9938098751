from __future__ import annotations

import numpy as np
import pytest
import zarr

from medgan.cohort.synthetic import digests_of, pixel_digest
from medgan.gan.images import to_stored, to_unit
from medgan.synthesis import shard


def written(folder, images, shard_rows):
    """The array as zarr reads it, from shards that we packed ourselves."""
    group = zarr.open_group(folder, mode="a", zarr_format=3)
    array = shard.create_array(group, images.shape, {}, chunk_rows=16, shard_rows=shard_rows)
    for number, start in enumerate(range(0, len(images), shard_rows)):
        path = folder.joinpath("images", "c", str(number), *["0"] * (images.ndim - 1))
        path.parent.mkdir(parents=True)
        path.write_bytes(shard.pack(images[start : start + shard_rows], chunk_rows=16, shard_rows=shard_rows))
    return array, folder / "images" / "c" / "0" / "/".join(["0"] * (images.ndim - 1))


@pytest.mark.parametrize("shape", [(1, 8, 8), (64, 8, 8), (101, 8, 8), (33, 4, 4, 4)])
def test_zarr_reads_the_shards_we_pack(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    images[: shape[0] // 2] //= 256
    array, _ = written(tmp_path, images, 64)
    assert np.array_equal(array[:], images)


def test_zarr_refuses_a_shard_of_ours_with_a_turned_bit(tmp_path):
    images = np.random.default_rng(1).integers(0, 65536, (16, 8, 8), dtype=np.uint16)
    array, path = written(tmp_path, images, 16)
    body = bytearray(path.read_bytes())
    body[100] ^= 1
    path.write_bytes(body)
    with pytest.raises((ValueError, RuntimeError)):
        array[:]


def test_parts_of_whole_chunks_are_digested_apart():
    images = np.random.default_rng(2).integers(0, 65536, (70, 4, 4), dtype=np.uint16)
    assert digests_of(images[:32]) + digests_of(images[32:]) == digests_of(images)
    assert pixel_digest(images) != pixel_digest(images[::-1])


@pytest.mark.parametrize("window", [(0, 65535), (1000, 4095)])
def test_every_stored_value_comes_back_from_single_precision(window):
    stored = np.arange(window[0], window[1] + 1)
    assert np.array_equal(to_stored(to_unit(stored, *window), *window), stored)
