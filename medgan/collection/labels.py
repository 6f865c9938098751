"""Join pseudonymised labels to the table: later labels win over earlier ones and over the header."""

from __future__ import annotations

import pandas as pd

from medgan.collection import schema

_COVARIATES = ("sex", "age_years")


def join(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """`table` with the columns of `labels` (indexed by patient key); where a label is empty the row keeps its own."""
    joined = table.copy()
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


def matched(table: pd.DataFrame, labels: pd.DataFrame) -> int:
    """Rows of `labels` whose patient is in the table."""
    return int(labels.index.isin(table["patient_key"]).sum())
