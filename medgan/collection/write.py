"""The committer's work: append packs and table, commit once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import zarr

from medgan.collection import layout, packs, read, schema
from medgan.collection import table as tables
from medgan.collection.store import Writer
from medgan.records import CollectionSnapshot

FrameSource = Callable[[pd.DataFrame], Iterable[packs.Frame]]
"""Gives the frames of the rows it is handed, in their order."""


def append(writer: Writer, rows: pd.DataFrame, frames_of: FrameSource) -> None:
    """Append new `rows` (canonical order, `pack` set) with their frames; nothing is visible before a commit."""
    placed = []
    for kind, of_kind in rows.groupby("pack", sort=True):
        first = packs.append(writer.group, str(kind), frames_of(of_kind))
        placed.append(of_kind.assign(pack_index=np.arange(first, first + len(of_kind), dtype=np.int64)))
    write_part(writer.group, len(read.parts_of(writer.group)), schema.in_order(pd.concat(placed, ignore_index=True)))


def write_part(root: zarr.Group, number: int, rows: pd.DataFrame) -> None:
    """Write or replace one table part."""
    data = np.frombuffer(tables.to_parquet(rows), dtype=np.uint8)
    root.create_array(
        f"{layout.TABLE}/{layout.part(number)}",
        data=data,
        chunks=(max(1, len(data)),),
        compressors=None,
        overwrite=True,
    )


def commit(writer: Writer, message: str) -> CollectionSnapshot:
    """Commit what was appended, with counts and digest of the whole table."""
    table = read.table_of(writer.group)
    return writer.commit(message, counts=counts_of(table), table_sha256=read.content_digest(table))


def counts_of(table: pd.DataFrame) -> dict[str, int]:
    """Instances, series, studies and patients of a table."""
    levels = {"instances": "instance_key", "series": "series_key", "studies": "study_key", "patients": "patient_key"}
    return {name: int(table[column].nunique()) for name, column in levels.items()}
