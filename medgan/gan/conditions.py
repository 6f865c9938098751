"""What an image is conditioned on beside its class: sex, site, age, slice position; each may be missing.

A field becomes a few numbers that both networks read through one linear map: a category one place a value, a quantity
eight Fourier features (so that near ages make near images and an age between two known ones is meant), and for both a
last place that says "not known". A value that fewer than eleven patients share is not learned: it would be a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.errors import InvalidRequest

HARMONICS = 8
"""Fourier features of a quantity: cos(k pi t) / k for k = 1..8, t in [0, 1] over the range; no wrap from end to end."""
LEAST_PATIENTS = 11
"""Fewer patients than this behind a value describe people, not a population (privacy.md, G7)."""
UNKNOWN = frozenset({"", "unknown", "nan", "none", "<na>"})
_RANGE_PERCENT = (1, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One condition: a category of `values`, or where there are none a quantity on [low, high] in its own unit."""

    name: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0

    @property
    def width(self) -> int:
        """Numbers that networks read of this field."""
        return (len(self.values) or HARMONICS) + 1

    @property
    def null(self) -> NDArray[np.float32]:
        """(width,): what "not known" looks like."""
        row: NDArray[np.float32] = np.eye(self.width, dtype=np.float32)[-1]
        return row

    def features(self, given: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """(N, width) float32; unknown where a category is empty or "unknown" and where a quantity is NaN or None.

        A quantity beyond the range that was trained on is taken as the range's end. `InvalidRequest` for a category
        that the model has not learned.
        """
        return self._of_categories(given) if self.values else self._of_quantities(given)

    def _of_categories(self, given: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        texts = [str(value) for value in given]
        index_of = {value: index for index, value in enumerate(self.values)}
        strange = sum(text not in index_of and text.lower() not in UNKNOWN for text in texts)
        if strange:
            raise InvalidRequest(
                f"{strange} value(s) of {self.name} were not learned; the model knows {', '.join(self.values)}"
            )
        return np.eye(self.width, dtype=np.float32)[[index_of.get(text, self.width - 1) for text in texts]]

    def _of_quantities(self, given: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        try:
            value_N = np.array([np.nan if str(value).lower() in UNKNOWN else value for value in given], np.float64)
        except (TypeError, ValueError):
            raise InvalidRequest(f"{self.name} is a quantity: give numbers, and NaN where it is not known") from None
        unknown_N = ~np.isfinite(value_N)
        t_N = np.clip((np.where(unknown_N, self.low, value_N) - self.low) / (self.high - self.low), 0, 1)
        k = np.arange(1, HARMONICS + 1)
        # the slope of cos(k pi t) grows with k: dividing by k lets smooth dependence be learned before fine one
        waves_NK = np.where(unknown_N[:, None], 0, np.cos(pi * t_N[:, None] * k) / k)
        return np.concatenate([waves_NK, unknown_N[:, None]], 1).astype(np.float32)


def learn(name: str, column: Sequence[Any] | NDArray[Any], patients: Sequence[Any] | NDArray[Any]) -> Field | None:
    """The field behind a column (N,) of a training set with the patient of each row; None where it says nothing.

    Numbers make a quantity on the 1st to 99th percentile of patients, anything else a category.
    """
    first = np.unique(np.asarray(patients).astype(str), return_index=True)[1]
    told = [value for value in column if str(value).lower() not in UNKNOWN]
    if told and all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in told):
        known = np.array([np.nan if str(value).lower() in UNKNOWN else value for value in column], np.float64)[first]
        known = known[np.isfinite(known)]
        if len(known) < LEAST_PATIENTS:
            return None
        low, high = (float(edge) for edge in np.percentile(known, _RANGE_PERCENT))
        return Field(name=name, low=low, high=high) if isfinite(high) and high > low else None
    pairs = {(str(value), str(patient)) for value, patient in zip(column, patients, strict=True)}
    values, counts = np.unique([value for value, _ in pairs], return_counts=True)
    kept = tuple(
        str(value)
        for value, count in zip(values, counts, strict=True)
        if count >= LEAST_PATIENTS and str(value).lower() not in UNKNOWN
    )
    return Field(name=name, values=kept) if len(kept) > 1 else None


def learn_all(
    columns: Mapping[str, NDArray[Any]], patients: Sequence[Any] | NDArray[Any]
) -> tuple[tuple[Field, ...], NDArray[np.float32]]:
    """Fields of those columns (N,) that say something, and the features (N, F) of every row.

    Categories too rare to learn count as unknown.
    """
    found = {name: learn(name, column, patients) for name, column in columns.items()}
    fields = tuple(field for field in found.values() if field)
    given = {field.name: _learned_only(field, columns[field.name]) for field in fields}
    return fields, encode(fields, given, len(patients))


def _learned_only(field: Field, column: NDArray[Any]) -> list[Any]:
    return [value if not field.values or str(value) in field.values else "" for value in column]


def encode(
    fields: Sequence[Field], given: Mapping[str, Sequence[Any] | NDArray[Any]], count: int
) -> NDArray[np.float32]:
    """(count, F) float32: every field's features side by side; a field that is not given is unknown.

    `InvalidRequest` for a name that is no field, or a list of another length.
    """
    strange = sorted(set(given) - {field.name for field in fields})
    if strange:
        known = ", ".join(field.name for field in fields) or "none"
        raise InvalidRequest(f"{len(strange)} condition(s) asked for are none of the model's: it has {known}")
    if any(len(column) != count for column in given.values()):
        raise InvalidRequest("conditions must have one value an image")
    parts = [
        field.features(given[field.name]) if field.name in given else np.tile(field.null, (count, 1))
        for field in fields
    ]
    return np.concatenate([np.empty((count, 0), np.float32), *parts], 1)


def dropped(fields: Sequence[Field], features_NF: NDArray[np.float32], null_NK: NDArray[np.bool_]) -> NDArray[Any]:
    """The features with field k of row n made unknown where `null_NK` says so."""
    out, start = features_NF.copy(), 0
    for k, field in enumerate(fields):
        out[null_NK[:, k], start : start + field.width] = field.null
        start += field.width
    return out


def joined(class_N: NDArray[np.int64], features_NF: NDArray[np.float32]) -> NDArray[Any]:
    """What networks take as `c`: (N,) int64 classes alone, or (N, 1 + F) float32 with the class in column 0."""
    if not features_NF.shape[1]:
        return class_N
    return np.concatenate([class_N[:, None].astype(np.float32), features_NF], 1)


def width(fields: Sequence[Field]) -> int:
    """F: numbers that networks read of all fields."""
    return sum(field.width for field in fields)


def to_json(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Plain values for a model's config.json."""
    return [asdict(field) for field in fields]


def from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
    """Inverse of `to_json`."""
    return tuple(Field(**{**value, "values": tuple(value["values"])}) for value in values)
