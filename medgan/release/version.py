"""Which version comes next, decided by what a reader of the last one would notice.

- patch: the same images and labels; only documents changed (reports, datasheet, terms, page).
- minor: every old row is still there, same place, same bytes; rows were appended.
- major: anything else: images or masks replaced, masks added or gone, another size, class, unit, label column,
  or licence.

So `name@1` always holds what it held: work pinned to a major version never changes under its feet.
The first version is 1.0.0. A number is never used twice, withdrawn ones included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medgan.release.evidence import Pixels, pixel_digest

FIRST = (1, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What decides the number: arrays by name, (N, H, W) each with its attributes, the labels, the licence."""

    arrays: Mapping[str, tuple[Pixels, dict[str, Any]]]
    labels: pd.DataFrame
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingArray:
    """An array of a published version; its rows are known by the digests of their shards, so none is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard_rows: int
    pixel_sha256: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What decides the number, of a published version."""

    arrays: Mapping[str, StandingArray]
    labels: pd.DataFrame
    licence: str


def change(old: Standing, new: Content) -> str:
    """`patch`, `minor` or `major` by the rules above."""
    if not _same_shape(old, new):
        return "major"
    rows = len(old.labels)
    if rows > len(new.labels) or not all(_same_rows(old.arrays[name], new.arrays[name][0]) for name in new.arrays):
        return "major"
    if not old.labels.reset_index(drop=True).equals(new.labels.iloc[:rows].reset_index(drop=True)):
        return "major"
    return "patch" if rows == len(new.labels) else "minor"


def parse(version: str) -> tuple[int, int, int]:
    """`1.2.3` as integers, which sort as versions do."""
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def following(version: str | None, step: str) -> str:
    """The number after `version` for a change of kind `step`; the first one when there is none."""
    if version is None:
        return ".".join(map(str, FIRST))
    major, minor, patch = parse(version)
    if step == "major":
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if step == "minor" else f"{major}.{minor}.{patch + 1}"


def _same_rows(old: StandingArray, images_NHW: Pixels) -> bool:
    """Whether the old rows are the first of the new: the last old shard may be a ragged part of a new one."""
    count = old.shape[0]
    ends = [min(start + old.shard_rows, count) for start in range(0, count, old.shard_rows)]
    digests = [pixel_digest(images_NHW[number * old.shard_rows : end]) for number, end in enumerate(ends)]
    return tuple(digests) == old.pixel_sha256


def _same_shape(old: Standing, new: Content) -> bool:
    kinds = {name: (held.shape[1:], held.dtype, held.attributes) for name, held in old.arrays.items()}
    return (
        kinds == {name: (held.shape[1:], held.dtype, attributes) for name, (held, attributes) in new.arrays.items()}
        and old.licence == new.licence
        and list(old.labels.columns) == list(new.labels.columns)
        and [str(kind) for kind in old.labels.dtypes] == [str(kind) for kind in new.labels.dtypes]
        and set(old.labels["class"]) == set(new.labels["class"])
    )
