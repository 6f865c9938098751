"""Tables as bytes: one Parquet encoding, and one digest that only the content decides.

The digest sees no row group, no codec, no library version and no place in a pack: two collections that hold
the same frames have the same digest, whatever nights they came in and wherever their pixels lie.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence

import pandas as pd

PLACE_COLUMNS = ("pack", "pack_index")
"""Where the pixels lie: history decides it, so the content digest leaves it out."""


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Parquet bytes of `frame` (zstd), without its index."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, engine="pyarrow", compression="zstd", index=False)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pd.DataFrame:
    """Inverse of `to_parquet`."""
    return pd.read_parquet(io.BytesIO(data), engine="pyarrow")


def digest(frame: pd.DataFrame, *, without: Sequence[str] = ()) -> str:
    """Hex SHA-256 over names and values of the columns in name order; rows in the order given, NaN as null."""
    hasher = hashlib.sha256()
    for name in sorted(set(frame.columns) - set(without)):
        values = frame[name].astype(object).where(frame[name].notna(), None).tolist()
        column = json.dumps([name, values], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        hasher.update(column.encode())
    return hasher.hexdigest()
