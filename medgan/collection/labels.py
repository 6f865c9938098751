"""Join pseudonymised labels to the table: later labels win over earlier ones and over the header."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from medgan.collection import schema

_COVARIATES = ("sex", "age_years")


STRUCTURES = f"{schema.LABEL_PREFIX}structures"
"""What segmentations and structure sets outline on the image."""


def join(table: pd.DataFrame, labels: pd.DataFrame, structures: Mapping[str, str]) -> pd.DataFrame:
    """`table` with the columns of `labels` (indexed by patient key) and `structures` (by instance key).

    Where a label is empty the row keeps its own.
    """
    joined = table.copy()
    outlined = joined["instance_key"].map(dict(structures))
    if outlined.notna().any():
        own = joined[STRUCTURES] if STRUCTURES in joined else pd.Series("", index=joined.index)
        joined[STRUCTURES] = own.where(outlined.isna(), outlined)
    names = [name for name in labels.columns if name.startswith(schema.LABEL_PREFIX) or name in _COVARIATES]
    unique = labels[~labels.index.duplicated(keep="first")]
    for name in names:
        found = joined["patient_key"].map(unique[name].to_dict())
        known = found.notna() & (found.astype(str) != "")
        if not known.any():
            continue
        if name not in joined:
            joined[name] = ""
        joined[name] = joined[name].where(~known, found)
    return schema.conform(joined)


def patients(table: pd.DataFrame) -> int:
    """Patients in the table who have a label, whether or not tonight's archive tells it again."""
    names = [name for name in schema.label_columns(table) if name != STRUCTURES]
    return int(table.loc[(table[names].fillna("") != "").any(axis=1), "patient_key"].nunique())


def matched(table: pd.DataFrame, labels: pd.DataFrame) -> int:
    """Rows of `labels` whose patient is in the table."""
    return int(labels.index.isin(table["patient_key"]).sum())
