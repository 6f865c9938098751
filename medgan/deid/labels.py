"""Label tables join by the same pseudonyms as the images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from medgan.deid import pseudonym, screen
from medgan.errors import InvalidRequest
from medgan.keys import Keyring

if TYPE_CHECKING:
    import pandas as pd

_CLASS = "label_"
ID_COLUMN, ISSUER_COLUMN = "PatientID", "IssuerOfPatientID"
MAX_AGE_YEARS = 120
TOP_AGE_YEARS = 90  # 45 CFR 164.514(b)(2)(i)(C): ages over 89 are one category
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,30}")
# A label is a class, not a text: short, and no long number.
_LABEL = re.compile(r"(?!.*\d{5})[A-Za-z0-9][A-Za-z0-9 _+./()-]{0,39}")
# What fewer patients have than these may be somebody's name and is no class that a model could learn.
MIN_CLASS_PATIENTS = 3
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


def pseudonymise(rows: Sequence[Mapping[str, str]], *, keyring: Keyring, columns: tuple[str, ...]) -> pd.DataFrame:
    """One row a patient, indexed by `patient_key`: `label_<column>` for each of `columns`, `sex`, `age_years`.

    `sex` is M, F, O or empty; `age_years` is NaN if unknown and 90 for everybody older. Only `columns` survive.
    A label that is not a short class name becomes empty, and so does one that several rows of a patient
    contradict. A class is made of technical words, or at least three patients have it, and nothing in it looks like a
    date, a telephone number, a title with a name. `InvalidRequest` for a column that is not named like one.
    """
    import pandas as pd

    if any(not _COLUMN.fullmatch(name) for name in columns):
        raise InvalidRequest("a label column is named by lower-case letters, digits and underscores")
    joined: dict[str, dict[str, str | float]] = {}
    for key, row in _by_patient(rows, keyring):
        found = {_target(name): _value(name, (row.get(name) or "").strip()) for name in columns}
        known = joined.setdefault(key, found)
        for name, value in found.items():
            if known[name] != value and not (value != value and known[name] != known[name]):  # noqa: PLR0124 - NaN
                known[name] = float("nan") if name == "age_years" else ""
    for name in (name for name in map(_target, columns) if name.startswith(_CLASS)):
        _forget_rarities(joined, name)
    targets = [_target(name) for name in columns]
    table = pd.DataFrame.from_dict(joined, orient="index", columns=targets).sort_index()
    table.index.name = "patient_key"
    return table


def left_out(
    rows: Sequence[Mapping[str, str]], table: pd.DataFrame, *, keyring: Keyring, columns: tuple[str, ...]
) -> int:
    """How many values `rows` give of patients, one for each column, that their pseudonymised `table` does not hold."""
    kept = table.to_dict("index")
    given = {
        (key, name) for key, row in _by_patient(rows, keyring) for name in columns if (row.get(name) or "").strip()
    }
    return sum(str(kept[key][_target(name)]) in {"", "nan"} for key, name in given)


def _by_patient(rows: Sequence[Mapping[str, str]], keyring: Keyring) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Rows with the pseudonym of their patient; a row that names none is left out."""
    for row in rows:
        original = (row.get(ID_COLUMN) or "").strip()
        if original:
            yield pseudonym.patient(keyring, (row.get(ISSUER_COLUMN) or "").strip(), original).key, row


def _forget_rarities(joined: dict[str, dict[str, str | float]], name: str) -> None:
    """Empty the labels `name` that could be free text about somebody."""
    patients = Counter(row[name] for row in joined.values())
    for row in joined.values():
        text = str(row[name])
        if screen.tells(text) or not (
            screen.text_passes(text, frozenset()) or patients[row[name]] >= MIN_CLASS_PATIENTS
        ):
            row[name] = ""


def _target(name: str) -> str:
    return {"sex": "sex", "age": "age_years", "age_years": "age_years"}.get(name, f"{_CLASS}{name}")


def _value(name: str, text: str) -> str | float:
    if name == "sex":
        return _SEXES.get(text.lower(), "")
    if _target(name) == "age_years":
        try:
            years = float(text.rstrip("Yy"))
        except ValueError:
            return float("nan")
        return min(years, TOP_AGE_YEARS) if 0 <= years <= MAX_AGE_YEARS else float("nan")
    return text if _LABEL.fullmatch(text) else ""
