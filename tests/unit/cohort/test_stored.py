"""What a disk did to a stored cohort is told in a sentence, whatever it did."""

from __future__ import annotations

import json
import resource

import numpy as np
import pytest

from medgan.cohort import stored, synthetic
from medgan.errors import IntegrityError, StoreUnavailable
from tests.builders import release as build
from tests.builders.published import zones

__all__ = ["zones"]

ARRAY = "images.zarr/images/zarr.json"
SHARD = "images.zarr/images/c/0/0/0"


def flipped(body):
    return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]


def enormous(body):
    return json.dumps(json.loads(body) | {"shape": [10**15, 28, 28]}).encode()


def wide(body):
    return json.dumps(json.loads(body) | {"shape": [40, 10**8, 28]}).encode()


@pytest.mark.parametrize(
    ("path", "harm"),
    [
        (SHARD, flipped),
        (SHARD, lambda body: body[:100]),
        (ARRAY, enormous),
        (ARRAY, wide),
        (ARRAY, lambda _: b"[" * 100_000),
        (ARRAY, lambda _: b"{}"),
        (ARRAY, lambda body: body[:20]),
        (ARRAY, None),
        ("synthetic.json", lambda body: body[:20]),
    ],
)
def test_damage_of_any_kind_is_an_integrity_error_and_no_crash(zones, path, harm):
    built = build.synthetic_cohort(zones, count=40)
    victim = built.folder / path
    if harm is None:
        victim.unlink()
    else:
        victim.write_bytes(harm(victim.read_bytes()))
    with pytest.raises(IntegrityError):
        synthetic.load(built.cleared.synthetic.synthetic, zones=zones)


@pytest.mark.parametrize("at_once", [1, 1 << 20], ids=["shard by shard", "at once"])
def test_large_cohorts_are_read_into_a_file_that_nobody_sees_and_hold_the_same_images(zones, monkeypatch, at_once):
    built = build.synthetic_cohort(zones, count=40)
    handle, before = built.cleared.synthetic.synthetic, sorted(built.folder.iterdir())
    held = synthetic.load(handle, zones=zones)
    monkeypatch.setattr(stored, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(stored, "_AT_ONCE_BYTES", at_once)
    spooled = synthetic.load(handle, zones=zones, spool=True)
    assert isinstance(spooled.images, np.memmap)
    assert np.array_equal(spooled.images, held.images)
    assert sorted(built.folder.iterdir()) == before


def test_a_full_disk_is_told_in_a_sentence_before_anything_is_written(zones, monkeypatch):
    built = build.synthetic_cohort(zones, count=40)
    monkeypatch.setattr(stored, "_IN_MEMORY_BYTES", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the system itself gives no more
        with pytest.raises(StoreUnavailable, match="File too large"):
            synthetic.load(built.cleared.synthetic.synthetic, zones=zones, spool=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
