"""Read a collection: its table as pandas, its pixels as frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from medgan.collection import layout, packs, schema, store
from medgan.collection import table as tables
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import CollectionSnapshot
from medgan.settings import Zones

WITHDRAWN = "withdrawn"
"""Root attribute that lists who was erased."""


def table(snapshot: CollectionSnapshot, *, zones: Zones) -> pd.DataFrame:
    """The table of kept attributes, one row a frame, in canonical order (columns: docs/data-format.md).

    Raises:
        InvalidRequest: the snapshot is not in the collection.
        IntegrityError: the table is not what the snapshot's digest says.
    """
    frame = table_of(store.root(snapshot, zones=zones))
    if content_digest(frame) != snapshot.table_sha256:
        raise IntegrityError("the collection's table is not what its snapshot says: restore it from a copy")
    return frame


def frames(snapshot: CollectionSnapshot, rows: pd.DataFrame, *, zones: Zones) -> Iterator[npt.NDArray[Any]]:
    """Frames of `rows` of the table, in row order: (rows, columns[, 3]) integers as stored."""
    return packs.frames(store.root(snapshot, zones=zones), rows)


def masks(table: pd.DataFrame) -> dict[str, int]:
    """Structure -> images of which a segmentation holds a mask of it, by name; what it is called in `structure`."""
    if "structure" not in table:
        return {}
    drawn = table[table["outlines"] != ""].drop_duplicates(["structure", "outlines", "outlines_frame"])
    return {str(name): int(count) for name, count in drawn["structure"].value_counts().sort_index().items()}


def parts_of(root: zarr.Group) -> list[pd.DataFrame]:
    """The table parts in the order in which they were committed, rows as they lie."""
    tables_group = root.get(layout.TABLE)
    if not isinstance(tables_group, zarr.Group):
        return []
    arrays = sorted(tables_group.arrays())
    return [schema.conform(tables.from_parquet(np.asarray(array[:]).tobytes())) for _, array in arrays]


def table_of(root: zarr.Group) -> pd.DataFrame:
    """All parts together, in canonical order."""
    parts = parts_of(root) or [schema.frame_of([])]
    return schema.in_order(schema.conform(pd.concat(parts, ignore_index=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """Pseudonyms of erased patients and digests of the files that were theirs: not stored again."""

    patients: frozenset[str]
    sources: frozenset[str]


def withdrawn(root: zarr.Group) -> Withdrawn:
    """Who was erased from the collection, and what came of them."""
    listed: Any = root.attrs.asdict().get(WITHDRAWN, {"patients": [], "sources": []})
    return Withdrawn(patients=frozenset(listed["patients"]), sources=frozenset(listed["sources"]))


def refuse_withdrawn(snapshot: CollectionSnapshot, table: pd.DataFrame, *, zones: Zones) -> None:
    """`InvalidRequest` where `table`, of `snapshot`, holds somebody who was erased since: nothing is made of that."""
    head = store.root(store.head(snapshot.collection, zones=zones), zones=zones)
    if withdrawn(head).patients & set(table["patient_key"]):
        raise InvalidRequest("this state of the collection holds patients who withdrew since: take the newest one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Frames that came and went between two tables; `changed` counts, by column, changes of those that stayed."""

    added: int
    removed: int
    changed: dict[str, int]


def difference(before: pd.DataFrame, after: pd.DataFrame) -> Difference:
    """Compare two tables of one collection by instance and frame."""
    key = ["instance_key", "frame"]
    left, right = before.set_index(key), after.set_index(key)
    kept = left.index.intersection(right.index)
    changed = {}
    for name in sorted({*left.columns, *right.columns} - set(tables.PLACE_COLUMNS)):
        old, new = (side.loc[kept, name] if name in side else pd.Series("", index=kept) for side in (left, right))
        count = int(((old != new) & ~(old.isna() & new.isna())).sum())
        if count:
            changed[name] = count
    return Difference(added=len(right) - len(kept), removed=len(left) - len(kept), changed=changed)


def content_digest(frame: pd.DataFrame) -> str:
    """Digest of a table in canonical order; where the pixels lie does not count."""
    return store.EMPTY_TABLE_SHA256 if frame.empty else tables.digest(frame, without=tables.PLACE_COLUMNS)
