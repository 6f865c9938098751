"""What a disk did to a stored cohort is told in a sentence, whatever it did."""

from __future__ import annotations

import json

import pytest

from medgan.cohort import synthetic
from medgan.errors import IntegrityError
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
