"""G7: what the released table says about the people behind it.

The three attacks of the EU's opinion on anonymisation (WP216), measured as anonymeter defines them (Giomi et al. 2023):
success on train patients against success on holdout patients, whom the generator never saw. Categorical attributes
make the best guess exact, so nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.privacy.policy import Policy
from medgan.records import GateTest
from medgan.records.synthetic import ATTRIBUTE_SOURCES, Attribute

_BESIDE_INFERENCE = 2
"""Singling-out and linkability, beside the inference of each attribute."""
_UPPER_95 = NormalDist().inv_cdf(0.95)


def released(labels: pd.DataFrame) -> tuple[str, ...]:
    """The attributes that the released table has."""
    return tuple(name for name in get_args(Attribute) if name in labels)


def as_released(real: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Real patients in the words of the released table: one row each, the same attributes, ages in its bands."""
    return _in_words(real.drop_duplicates("patient_key").reset_index(drop=True), labels)


def _in_words(rows: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Real rows with the columns and values of the released table."""
    columns = {"class": rows["class"]}
    if "sex" in labels:
        known = set(labels["sex"])
        columns["sex"] = rows["sex"].map(lambda value: value if value in known else "unknown")
    if "age_band" in labels:
        bands = sorted(set(labels["age_band"]))
        columns["age_band"] = rows["age_years"].map(lambda age: _band_of(age, bands))
    for name, sources in ATTRIBUTE_SOURCES.items():
        if name in labels:
            found = next((source for source in sources if source in rows), None)
            told = pd.Series("unknown", index=rows.index) if found is None else rows[found].astype("str")
            columns[name] = told.fillna("unknown").replace({"": "unknown", "nan": "unknown"})
    return pd.DataFrame(columns)


def attacks(labels: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame, policy: Policy) -> tuple[GateTest, ...]:
    """G7 over the released table: smallest cell, singling-out, linkability, inference of each attribute."""
    names = released(labels)
    labels = _of_people(labels, names)
    members, others = as_released(train, labels), as_released(holdout, labels)
    tests = [_smallest_cell(labels, train, names, policy)]
    broken = NormalDist().inv_cdf(1 - 0.01 / (_BESIDE_INFERENCE + len(names)))
    singled, control = (_singled_out(labels, people, names) for people in (members, others))
    tests.append(_risk("singling-out", singled, control, policy, broken))
    if len(names) > 1:
        linked, control = (_linked(labels, people, names) for people in (members, others))
        tests.append(_risk("linkability", linked, control, policy, broken))
        for secret in names:
            guessed, control = (_inferred(labels, people, names, secret) for people in (members, others))
            tests.append(_risk(f"inference of {secret.replace('_', ' ')}", guessed, control, policy, broken))
    return tuple(tests)


def _of_people(labels: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """One row a synthetic patient and combination, where the table says whose images they are: a person counts once."""
    return labels.drop_duplicates(["patient", *names]) if "patient" in labels else labels


def _smallest_cell(labels: pd.DataFrame, train: pd.DataFrame, names: Sequence[str], policy: Policy) -> GateTest:
    """Fewest real patients behind any combination of attributes that the table shows; some have several."""
    cells = _in_words(train, labels).assign(patient_key=train["patient_key"])
    sizes = cells.groupby(list(names))["patient_key"].nunique()
    shown = labels[list(names)].drop_duplicates().itertuples(index=False, name=None)
    fewest = min(int(sizes.get(cell if len(names) > 1 else cell[0], 0)) for cell in shown)
    return GateTest(
        test="G7",
        title="fewest patients behind a row of the released table",
        value=fewest,
        limit=policy.attributes.cell_least,
        passed=fewest >= policy.attributes.cell_least,
        detail=f"over {' x '.join(names)}; at least {policy.attributes.cell_least} are asked for",
    )


def _risk(
    attack: str, members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], policy: Policy, broken: float
) -> GateTest:
    """(success on train - success on holdout) / (1 - success on holdout), with its 95 % upper bound (delta method).

    A limit counts as broken, and not merely as undecided, at one in a hundred over all of G7's risks together:
    at 95 % each, one honest site in ten with 800 patients was refused by chance (0 of 60 with 5,000).
    """
    rates, errors = zip(*(_rate(successes) for successes in (members, others)), strict=True)
    room = max(1 - rates[1], 1e-9)
    risk = (rates[0] - rates[1]) / room
    error = np.hypot(errors[0] / room, (1 - rates[0]) / room**2 * errors[1])
    upper, lower = risk + _UPPER_95 * error, risk - broken * error
    passed = bool(upper <= policy.attributes.risk_most)
    return GateTest(
        test="G7",
        title=f"{attack}, risk beyond the holdout's (95 % upper)",
        value=round(float(max(upper, 0.0)), 6),
        estimate=round(float(risk), 6),
        limit=policy.attributes.risk_most,
        passed=passed,
        conclusive=passed or bool(lower > policy.attributes.risk_most),
        detail=f"success {rates[0]:.3f} on {len(members)} train, {rates[1]:.3f} on {len(others)} holdout patients",
    )


def _rate(successes: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean success and its standard error, kept off zero by one pseudo-success each way (Wilson)."""
    count = len(successes)
    smooth = (successes.sum() + 1) / (count + 2)
    return float(successes.mean()), float(np.sqrt(smooth * (1 - smooth) / count))


def _singled_out(labels: pd.DataFrame, people: pd.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """(P,) 1 where a combination that is unique in the released table also names this one person alone."""
    columns = list(names)
    unique = set(labels[columns].value_counts().loc[lambda sizes: sizes == 1].index)
    sizes = people[columns].value_counts()
    return np.array(
        [float(cell in unique and sizes[cell] == 1) for cell in people[columns].itertuples(index=False, name=None)]
    )


def _linked(labels: pd.DataFrame, people: pd.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """(P,) chance that the rows drawn for a person's first attribute and for the others are the same row."""
    first, rest = [names[0]], list(names[1:])
    by_first, by_rest, by_all = (labels[columns].value_counts() for columns in (first, rest, list(names)))
    chances = []
    for cell in people[list(names)].itertuples(index=False, name=None):
        candidates = by_first.get(cell[:1], 0) * by_rest.get(cell[1:], 0)
        chances.append(by_all.get(cell, 0) / candidates if candidates else 0.0)
    return np.array(chances, dtype=np.float64)


def _inferred(labels: pd.DataFrame, people: pd.DataFrame, names: Sequence[str], secret: str) -> npt.NDArray[np.float64]:
    """(P,) 1 where the commonest secret among released rows with a person's other attributes is the person's."""
    known = [name for name in names if name != secret]
    counts = labels.groupby([*known, secret]).size().rename("rows").reset_index()
    best = counts.sort_values(["rows", secret], ascending=[False, True]).drop_duplicates(known)
    guess = people[[*known]].merge(best[[*known, secret]], on=known, how="left")[secret]
    pairs = zip(guess.tolist(), people[secret].tolist(), strict=True)
    return np.array([float(said == true) for said, true in pairs])


def _band_of(age_years: float, bands: Sequence[str]) -> str:
    for band in bands:
        low, _, high = band.removesuffix("+").partition("-")
        if age_years >= int(low) and (not high or age_years < int(high) + 1):
            return band
    return "unknown"
