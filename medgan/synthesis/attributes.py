"""The attribute table of a synthetic cohort: counts are exact integers, the order is drawn from the seed.

Classes follow the shares asked for, or those of the real train split. Sex and age band follow their joint real
counts within each class. A cell of fewer than `SMALL_CELL` real patients describes people, not a population
(privacy.md, G7: k >= 11), so age bands are merged until no such cell is left, and an attribute that no merging
can save is not synthesised at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.errors import InvalidRequest

SMALL_CELL = 11
_DECADES = tuple(range(10, 91, 10))
_SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTable:
    """Real patients per cell: `columns` names the attributes, `counts` maps their values to patients (>= 11 each)."""

    columns: tuple[str, ...]
    counts: Mapping[tuple[str, ...], int]


def largest_remainder(total: int, weights: Sequence[float]) -> npt.NDArray[np.int64]:
    """(K,) integers that sum to `total` in proportion to `weights` (Hamilton's method; ties go to the first)."""
    shares = np.asarray(weights, dtype=np.float64)
    quota = total * shares / shares.sum()
    counts: npt.NDArray[np.int64] = np.floor(quota).astype(np.int64)
    rest = total - int(counts.sum())
    order = np.argsort(-(quota - counts), kind="stable")
    counts[order[:rest]] += 1
    return counts


def class_counts(images: int, classes: Sequence[str], shares: Mapping[str, float]) -> dict[str, int]:
    """Images of each class, exact; `InvalidRequest` for a class the model does not know or shares that miss 1."""
    unknown = len(set(shares) - set(classes))
    if unknown:
        raise InvalidRequest(f"{unknown} of the classes asked for are unknown to the model, which has {len(classes)}")
    values = [float(shares.get(name, 0.0)) for name in classes]
    if min(values) < 0 or abs(sum(values) - 1) > _SHARE_TOLERANCE:
        raise InvalidRequest(f"class shares must not be negative and must sum to 1, not to {sum(values):.4f}")
    return dict(zip(classes, largest_remainder(images, values).tolist(), strict=True))


def joint_table(train: pd.DataFrame) -> JointTable:
    """Patients per class, sex and age band in the train split, with every cell large enough to be told.

    `train` has `class`, `patient_key`, and may have `sex` and `age_years`. Falls back from class x sex x age band
    to class x sex, then to class alone.
    """
    people = train.drop_duplicates(["patient_key", "class"])
    sex = people["sex"].map(lambda value: value if value in {"F", "M", "O"} else "unknown") if "sex" in people else None
    if sex is not None and "age_years" in people and people["age_years"].notna().all():
        edges = _coarsest_safe_edges(people, sex)
        if edges is not None:
            bands = pd.Series([band_name(age, edges) for age in people["age_years"]], index=people.index)
            return _count(people["class"], sex=sex, age_band=bands)
    if sex is not None and _smallest(_count(people["class"], sex=sex)) >= SMALL_CELL:
        return _count(people["class"], sex=sex)
    return _count(people["class"])


def band_name(age_years: float, edges: Sequence[int]) -> str:
    """The band of an age: `0-29`, `30-59`, `60+` for edges 30 and 60."""
    above = sum(age_years >= edge for edge in edges)
    low = edges[above - 1] if above else 0
    return f"{low}-{edges[above] - 1}" if above < len(edges) else f"{low}+"


def attribute_table(images: int, counts: Mapping[str, int], joint: JointTable, *, seed: int) -> pd.DataFrame:
    """Rows `id`, `split`, `class` and the joint columns: `counts` exactly, order shuffled by `seed`."""
    rows: list[tuple[str, ...]] = []
    for name, wanted in counts.items():
        cells = sorted(cell for cell in joint.counts if cell[0] == name)
        if wanted and not cells:
            raise InvalidRequest("a class is asked for that the training cohort does not hold")
        made = largest_remainder(wanted, [joint.counts[cell] for cell in cells]) if cells else ()
        for cell, count in zip(cells, made, strict=True):
            rows.extend([cell] * int(count))
    order = np.random.Generator(np.random.Philox(key=[seed, 0x617474])).permutation(images)
    table = pd.DataFrame([rows[index] for index in order], columns=list(joint.columns))
    table.insert(0, "split", "train")
    table.insert(0, "id", np.arange(images, dtype=np.int64))
    return table


def _coarsest_safe_edges(people: pd.DataFrame, sex: pd.Series) -> tuple[int, ...] | None:
    """Age edges, as many decades as leave no cell below `SMALL_CELL`; None when even one band does."""
    edges = list(_DECADES)
    while True:
        bands = pd.Series([band_name(age, edges) for age in people["age_years"]], index=people.index)
        joint = _count(people["class"], sex=sex, age_band=bands)
        if _smallest(joint) >= SMALL_CELL:
            return tuple(edges) if edges else None
        if not edges:
            return None
        edges.remove(_edge_beside(min(joint.counts, key=lambda cell: (joint.counts[cell], cell))[-1], edges))


def _edge_beside(band: str, edges: Sequence[int]) -> int:
    """The edge whose removal merges `band` with its neighbour towards the middle of life."""
    low, _, high = band.partition("-")
    if low == "0":
        return edges[0]
    if not high:
        return edges[-1]
    return int(low) if int(low) >= edges[len(edges) // 2] else int(high) + 1


def _count(classes: pd.Series, **columns: pd.Series) -> JointTable:
    frame = pd.DataFrame({"class": classes, **columns})
    sizes = frame.groupby(list(frame.columns), observed=True, sort=True).size()
    keys = [cell if isinstance(cell, tuple) else (cell,) for cell in sizes.index]
    counts = {tuple(map(str, cell)): int(size) for cell, size in zip(keys, sizes, strict=True)}
    return JointTable(columns=tuple(frame.columns), counts=counts)


def _smallest(joint: JointTable) -> int:
    return min(joint.counts.values())
