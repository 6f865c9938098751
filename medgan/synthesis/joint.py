"""The joint model of a cohort's attributes: how many real patients stand behind every cell that may be told.

A cell of fewer than `SMALL_CELL` patients describes people, not a population (privacy.md, G7: k >= 11). Such cells are
left out while they hold no more than `LEFT_OUT` of the patients and no class of `SMALL_CELL` goes with them; beyond
that age bands are merged, and attributes that nobody asked for are dropped, view first, until the table can be told.
What is left is low-dimensional by construction, and every combination in it belongs to real people: nothing
inconsistent can be drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.errors import InvalidRequest
from medgan.synthesis import attributes

SMALL_CELL = 11
LEFT_OUT = 0.05
_NOISE_MARGIN = 3.0
"""Standard deviations by which a noisy count must clear `SMALL_CELL`: one cell in 700 is told wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointTable:
    """Patients per cell: `columns` names the attributes, `counts` maps their values to (noisy) patients.

    `left_out` is the share of patients in cells that are too small to be told.
    """

    columns: tuple[str, ...]
    counts: Mapping[tuple[str, ...], float]
    left_out: float = 0.0

    def values(self, column: str) -> tuple[str, ...]:
        """The values of one attribute that can be asked for."""
        return tuple(sorted({cell[self.columns.index(column)] for cell in self.counts}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Gaussian noise on every count: its standard deviation `sigma`, and the secret `key` it is drawn from."""

    sigma: float
    key: bytes


def joint_table(
    train: pd.DataFrame, *, asked: Sequence[str] = (), edges: Sequence[int] | None = None, noise: Noise | None = None
) -> JointTable:
    """Learn the table from `train` (`class`, `patient_key`, and what `attributes.people` knows).

    `asked` attributes are not dropped; `edges` fixes the age bands. With `noise` a patient counts once.

    Raises:
        InvalidRequest: an attribute asked for is not known, or its cells are too small to be told.
    """
    if train.empty:
        raise InvalidRequest("there is no training patient to follow")
    persons = attributes.people(train)
    known = [
        name for name in attributes.ATTRIBUTES if name in persons or (name == "age_band" and "age_years" in persons)
    ]
    for name in asked:
        if name not in known:
            raise InvalidRequest(f"the training cohort does not know {_said(name)}; it knows {_listed(known)}")
    finest = _finest(persons, known, edges, noise)
    for columns in _candidates(known, asked):
        found = _coarsened(finest, columns, fixed=edges is not None)
        if found is not None:
            return found
    raise InvalidRequest(
        f"{_listed([*asked])} together would describe groups of fewer than {SMALL_CELL} patients: "
        "ask for fewer attributes or wider age bands"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """Counts of the finest table; `merged` says how many noisy counts each is the sum of."""

    frame: pd.DataFrame
    edges: tuple[int, ...]
    sigma: float


def _finest(persons: pd.DataFrame, known: Sequence[str], edges: Sequence[int] | None, noise: Noise | None) -> _Cells:
    """Patients per cell of all known attributes, in decades or the bands asked for."""
    cuts = tuple(attributes.DECADES if edges is None else edges)
    if "age_years" in persons:
        above = np.searchsorted(cuts, persons["age_years"].to_numpy(), side="right")
        names = [attributes.band_name(low, cuts) for low in (0, *cuts)]
        persons = persons.assign(age_band=[names[index] for index in above])
    if noise is None:
        frame = persons.groupby(list(known), observed=True, sort=True).size().rename("patients").reset_index()
        return _Cells(frame=frame.assign(merged=1), edges=cuts, sigma=0.0)
    persons = persons.drop_duplicates("patient_key")
    domain = [sorted(set(persons[name])) for name in known]
    frame = pd.DataFrame(list(product(*domain)), columns=list(known))
    exact = persons.groupby(list(known)).size().rename("patients").reset_index()
    patients = frame.merge(exact, on=list(known), how="left")["patients"].fillna(0).to_numpy(dtype=np.float64)
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(noise.key[:16], dtype=np.uint64)))
    noisy = patients + noise.sigma * rng.standard_normal(len(frame))
    return _Cells(frame=frame.assign(patients=noisy, merged=1), edges=cuts, sigma=noise.sigma)


def _candidates(known: Sequence[str], asked: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Sets of attributes from all to fewest: what nobody asked for goes, view first, then site, age band, sex."""
    needed = {"class", *asked}
    free = [name for name in ("view", "site", "age_band", "sex") if name in known and name not in needed]
    for dropped in range(len(free) + 1):
        yield tuple(name for name in known if name not in free[:dropped])


def _coarsened(cells: _Cells, columns: tuple[str, ...], *, fixed: bool) -> JointTable | None:
    """The table over `columns` with as many age bands as `LEFT_OUT` allows; None when there is none."""
    edges = list(cells.edges)
    while True:
        frame = _merged(cells, columns, edges)
        table = _told(cells, columns, frame)
        alone = columns == ("class",)
        if alone or table.left_out <= LEFT_OUT:
            # one band for everybody says nothing
            return None if "age_band" in columns and not edges and not fixed else table
        if fixed or "age_band" not in columns or not edges:
            return None
        edges.remove(_edge_to_merge(cells, frame, edges))


def _merged(cells: _Cells, columns: tuple[str, ...], edges: Sequence[int]) -> pd.DataFrame:
    frame = cells.frame
    if "age_band" in columns:
        wider = {band: attributes.band_name(attributes.band_years(band)[0], edges) for band in set(frame["age_band"])}
        frame = frame.assign(age_band=frame["age_band"].map(wider))
    return frame.groupby(list(columns), sort=True)[["patients", "merged"]].sum().reset_index()


def _told(cells: _Cells, columns: tuple[str, ...], frame: pd.DataFrame) -> JointTable:
    """Every possible cell that is large enough; `class` alone is told whatever its size, the gate judges it."""
    least = _least(cells, frame)
    possible = np.array(
        [attributes.is_possible(dict(zip(columns, cell, strict=True))) for cell in _rows(frame, columns)], dtype=bool
    )
    patients = frame["patients"].to_numpy(dtype=np.float64)
    kept = possible & ((patients >= least) | ((columns == ("class",)) & (cells.sigma == 0)))
    total = float(patients[possible].sum())  # noise has no mean: clipping it would invent patients
    counts = {
        cell: float(count)
        for cell, count, keep in zip(_rows(frame, columns), patients.tolist(), kept.tolist(), strict=True)
        if keep
    }
    of_class = pd.Series(patients).groupby(frame["class"].to_numpy()).sum()
    common = set(of_class.index[of_class >= SMALL_CELL])
    whole = bool(counts) and common <= {cell[0] for cell in counts}
    left_out = 1 - sum(counts.values()) / total if whole and total > 0 else 1.0
    return JointTable(columns=columns, counts=counts, left_out=left_out)


def _least(cells: _Cells, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Fewest patients that each cell must show to be told."""
    margin = _NOISE_MARGIN * cells.sigma * np.sqrt(frame["merged"].to_numpy(dtype=np.float64))
    least: npt.NDArray[np.float64] = SMALL_CELL + margin
    return least


def _rows(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in frame[list(columns)].itertuples(index=False, name=None)]


def _edge_to_merge(cells: _Cells, frame: pd.DataFrame, edges: Sequence[int]) -> int:
    """The edge beside the band that has lost most patients to small cells; ties go to the youngest."""
    lost = frame[frame["patients"] < _least(cells, frame)].groupby("age_band")["patients"].sum().clip(lower=0)
    if lost.empty:  # what is lost is lost to rules: wider bands tell no more, but there is an end to them
        return edges[-1]
    band = min(lost.index, key=lambda name: (-lost[name], attributes.band_years(name)[0]))
    low, beyond = attributes.band_years(band)
    if low == 0:
        return edges[0]
    if beyond is None:
        return edges[-1]
    # towards the middle of life, where there are more patients
    return low if low >= edges[len(edges) // 2] else beyond


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """Least noise on a count that one patient changes by one: analytic Gaussian (Balle & Wang 2018, theorem 8)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(log_sigma: float) -> float:
        sigma = float(np.exp(log_sigma))
        inside = norm.cdf(0.5 / sigma - epsilon * sigma)
        return float(inside - np.exp(epsilon + norm.logcdf(-0.5 / sigma - epsilon * sigma)) - delta)

    return float(np.exp(brentq(excess, -7.0, 14.0)))


def _said(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_said(name) for name in names)
