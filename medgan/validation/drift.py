"""Drift: every distribution of a cohort against the last accepted cohort of the same recipe and collection.

The reference is written when a cohort is admitted: shares of classes and sexes, and what each class looks like
(its mean image beside the mean of all, 8 x 8). Two tables whose labels were swapped have the same distributions,
but their classes look like each other's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from medgan.cohort import layout, stored
from medgan.cohort.read import Cohort
from medgan.cohort.split import SPLITS
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.records import CohortSnapshot, Handle
from medgan.records.base import Record
from medgan.settings import Zones
from medgan.validation import likeness

MEASURES = (
    *("mean", "std", "p05", "median", "p95", "entropy_bits", "sharpness", "saturated_low", "saturated_high"),
    *("age_years", "window_low", "window_high", "spacing_mm", "template_correlation"),
)
_SIGNIFICANCE = 1.95
"""Kolmogorov-Smirnov's critical coefficient at 0.001: what chance alone may do is taken off."""


class Reference(Record):
    """What an accepted cohort looked like; `looks` are (class mean - mean of all), 64 numbers of 8 x 8 images."""

    cohort: Handle
    images: int
    shares: dict[str, dict[str, float]] = Field(description="Column -> value -> share of images.")
    looks: dict[str, list[float]]


def accepted(cohort: CohortSnapshot, *, zones: Zones) -> Reference | None:
    """The last accepted cohort of this one's recipe name and collection, or None."""
    return stored.record(_pointer(cohort, zones), Reference)


def accept(cohort: Cohort, *, zones: Zones) -> None:
    """Make `cohort` the reference of its recipe in its collection."""
    names = [name for name in ("class", "sex") if name in cohort.table]
    shares = {name: shares_of(cohort.table, name) for name in names}
    looks = {name: look.tolist() for name, look in class_looks(cohort).items()}
    reference = Reference(cohort=cohort.snapshot.cohort, images=len(cohort.images), shares=shares, looks=looks)
    durable.write_bytes(_pointer(cohort.snapshot, zones), reference.canonical())


def distributions(cohort: Cohort, facts: pd.DataFrame, reference: Reference | None, *, zones: Zones) -> pd.DataFrame:
    """One row a measure: `measure` and `drift`, the distance beyond chance, 0..1. No reference gives no row.

    The distance is Kolmogorov-Smirnov's for numbers and total variation for shares, less what chance allows.
    """
    before = _statistics(reference, zones)
    if reference is None or before is None or reference.cohort == cohort.snapshot.cohort:
        return pd.DataFrame({"measure": pd.Series(dtype="str"), "drift": pd.Series(dtype="float64")})
    drifts = {name: beyond_chance(facts[name], before[name]) for name in MEASURES if name in facts and name in before}
    for name, shares in reference.shares.items():
        distance = total_variation(shares_of(cohort.table, name), shares)
        distance -= allowance(len(cohort.images), reference.images)
        drifts[name] = max(0.0, distance)
    return pd.DataFrame({"measure": list(drifts), "drift": list(drifts.values())})


def class_facts(cohort: Cohort, reference: Reference | None) -> pd.DataFrame:
    """One row a class: `holdout_auc` of telling it by its look, `look_correlation` with its look in the reference."""
    looks = class_looks(cohort)
    rows = []
    held_out = (cohort.table["split"] != SPLITS[0]).to_numpy()
    units_NP = likeness.units(cohort.images[held_out], likeness.COARSE_PX)
    for number, name in enumerate(cohort.classes):
        of_class = (cohort.table["class"] == name).to_numpy()[held_out]
        look = looks[name]
        known = None if reference is None else reference.looks.get(name)
        rows.append(
            {
                "class_number": number,
                "holdout_auc": auc(units_NP @ look, of_class) if len(cohort.classes) > 1 else np.nan,
                "look_correlation": np.nan if known is None else correlation(look, np.array(known)),
            }
        )
    return pd.DataFrame(rows)


def class_looks(cohort: Cohort) -> dict[str, npt.NDArray[np.float64]]:
    """Class -> (64,) mean unit image of its training images less the mean of all training images."""
    train = (cohort.table["split"] == SPLITS[0]).to_numpy()
    units_NP = likeness.units(cohort.images[train], likeness.COARSE_PX).astype(np.float64)
    classes = cohort.table["class"].to_numpy()[train]
    mean_P = units_NP.mean(axis=0)
    nothing_P = np.zeros_like(mean_P)
    return {
        name: units_NP[classes == name].mean(axis=0) - mean_P if (classes == name).any() else nothing_P
        for name in cohort.classes
    }


def shares_of(table: pd.DataFrame, name: str) -> dict[str, float]:
    """Value -> share of the rows, in value order; empty where there is no such column."""
    if name not in table:
        return {}
    counts = table[name].value_counts(normalize=True)
    return {str(value): float(counts[value]) for value in sorted(counts.index)}


def beyond_chance(now: pd.Series, before: pd.Series) -> float:
    """Kolmogorov-Smirnov distance of two samples less what chance allows at 0.001; 0 where either is empty."""
    a, b = np.sort(now.dropna().to_numpy(dtype=float)), np.sort(before.dropna().to_numpy(dtype=float))
    if not len(a) or not len(b):
        return 0.0 if len(a) == len(b) else 1.0
    values = np.concatenate([a, b])
    distance = np.abs(
        np.searchsorted(a, values, side="right") / len(a) - np.searchsorted(b, values, side="right") / len(b)
    ).max()
    return max(0.0, float(distance) - allowance(len(a), len(b)))


def allowance(now: int, before: int) -> float:
    """Distance that two samples of one distribution reach once in a thousand times."""
    return _SIGNIFICANCE * math.sqrt((now + before) / (now * before))


def total_variation(now: Mapping[str, float], before: Mapping[str, float]) -> float:
    """Half the sum of absolute differences of two shares, 0..1."""
    return sum(abs(now.get(name, 0.0) - before.get(name, 0.0)) for name in {*now, *before}) / 2


def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 where either is constant."""
    scale = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / scale if scale > 0 else 0.0


def auc(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve by mid-ranks; NaN without both kinds."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = pd.Series(scores).rank().to_numpy()
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _statistics(reference: Reference | None, zones: Zones) -> pd.DataFrame | None:
    if reference is None:
        return None
    path: Path = layout.folder(reference.cohort, zones=zones) / layout.STATISTICS
    return tables.from_parquet(path.read_bytes()) if path.is_file() else None


def _pointer(cohort: CohortSnapshot, zones: Zones) -> Path:
    """A reference a collection: another site's images are prepared by the same recipe and look different by right."""
    collection, _, _ = cohort.collection_snapshot.partition("@")
    return zones.pseudonymised / "cohorts" / "accepted" / collection / f"{cohort.recipe.name}.json"
