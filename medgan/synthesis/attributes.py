"""The attributes of real patients, in the words a synthetic table uses, and the rules no patient breaks.

`class`, then `sex`, `age_band`, `site` and `view` where the cohort has them. A patient counts once a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import pandas as pd

from medgan.errors import InvalidRequest
from medgan.records.synthetic import ATTRIBUTE_SOURCES, Attribute

ATTRIBUTES: tuple[str, ...] = get_args(Attribute)
DECADES = tuple(range(10, 91, 10))
UNKNOWN = "unknown"
_SEXES = ("F", "M", "O")

_WOMEN_ONLY = ("pregnan", "obstetric", "uterus", "uterine", "ovar", "menopaus", "endometri", "placent")
_MEN_ONLY = ("prostat", "testic", "testis", "scrot", "penile")
_PREGNANT_YEARS = (10, 60)
_OLDEST = 150
_DENIED = ("no ", "not ", "non-", "non ", "without ")


def people(train: pd.DataFrame) -> pd.DataFrame:
    """One row a patient and class: `patient_key`, `class`, and `sex`, `age_years`, `site`, `view` where known."""
    rows = train.drop_duplicates(["patient_key", "class"]).reset_index(drop=True)
    columns = {"patient_key": rows["patient_key"], "class": rows["class"].astype(str)}
    if "sex" in rows:
        columns["sex"] = rows["sex"].map(lambda value: value if value in _SEXES else UNKNOWN)
    if "age_years" in rows and rows["age_years"].notna().all():
        columns["age_years"] = rows["age_years"].astype(float)
    for name, sources in ATTRIBUTE_SOURCES.items():
        found = next((source for source in sources if source in rows), None)
        if found is not None:
            columns[name] = rows[found].astype("str").fillna(UNKNOWN).replace({"": UNKNOWN, "nan": UNKNOWN})
    return pd.DataFrame(columns)


def band_name(age_years: float, edges: Sequence[int]) -> str:
    """The band of an age: `0-29`, `30-59`, `60+` for edges 30 and 60."""
    above = sum(age_years >= edge for edge in edges)
    low = edges[above - 1] if above else 0
    return f"{low}-{edges[above] - 1}" if above < len(edges) else f"{low}+"


def band_years(band: str) -> tuple[int, int | None]:
    """First age and first age beyond of a band; None where it is open. `InvalidRequest` for anything else."""
    low, _, high = band.removesuffix("+").partition("-")
    if not low.isdecimal() or (band.endswith("+") == bool(high)) or not (high.isdecimal() or not high):
        raise InvalidRequest("an age band reads 0-29, 30-59 or 60+")
    years = [int(text) if len(text) <= len(str(_OLDEST)) else _OLDEST + 1 for text in (low, high) if text]
    if years != sorted(years) or years[-1] > _OLDEST:
        raise InvalidRequest(f"an age band begins below its end, and nobody is older than {_OLDEST}")
    return years[0], years[1] + 1 if high else None


def asked_edges(bands: Sequence[str]) -> tuple[int, ...]:
    """The edges between all bands that a request names; `InvalidRequest` where two of them overlap.

    Ages that no band covers become bands of their own.
    """
    spans = sorted(band_years(band) for band in bands)
    for (_, end), (start, _) in pairwise(spans):
        if end is None or end > start:
            raise InvalidRequest("two of the age bands asked for overlap")
    edges = {edge for span in spans for edge in span if edge}
    return tuple(sorted(edges))


def is_possible(cell: dict[str, str]) -> bool:
    """Whether one person can have these attributes together: no pregnant man, no pregnancy at 70, no ovary of a man.

    Wrong labels in a real archive are not handed on. Values that deny (`not pregnant`) bind nobody.
    """
    words = [value.casefold() for name, value in cell.items() if name in {"class", "view"}]
    said = [word for word in words if not word.startswith(_DENIED)]
    sex, band = cell.get("sex"), cell.get("age_band")
    if sex == "M" and any(stem in word for word in said for stem in _WOMEN_ONLY):
        return False
    if sex == "F" and any(stem in word for word in said for stem in _MEN_ONLY):
        return False
    if band is not None and any("pregnan" in word for word in said):
        low, beyond = band_years(band)
        return low < _PREGNANT_YEARS[1] and (beyond is None or beyond > _PREGNANT_YEARS[0])
    return True


def released_name(column: str) -> str:
    """What the synthetic table calls a column of the real one."""
    if column == "age_years":
        return "age_band"
    return next((name for name, sources in ATTRIBUTE_SOURCES.items() if column in sources), column)
