"""Settle staged instances against what the collection holds and against each other.

The first content under an instance's UID stays; nothing is overwritten. The same pixels under another header are
the same instance (known); other pixels are a conflict and are quarantined. Between two newcomers the smaller
source digest is first, so the outcome does not depend on the order of files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medgan.collection import schema, staging
from medgan.collection.accounting import Accounting
from medgan.collection.staging import Batch
from medgan.records import QuarantineReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """New `rows` in canonical order; column `batch` indexes `folders`. `conflicts`: source digest -> study key."""

    rows: pd.DataFrame
    folders: tuple[Path, ...]
    conflicts: dict[str, str]


def settle(
    batches: Sequence[Batch],
    folder: Path,
    table: pd.DataFrame,
    accounting: Accounting,
    *,
    withdrawn: Collection[str] = (),
) -> Settled:
    """Decide for every staged instance whether it is new, known, in conflict, or of an erased patient.

    The decision is entered in `accounting`; `withdrawn` are pseudonyms of erased patients.
    """
    folders = tuple(folder / batch.name for batch in batches)
    for path in folders:
        accounting.quarantined.update(staging.refused(path))
    rows = staging.rows(folders)
    erased = rows["patient_key"].isin(withdrawn)
    accounting.withdrawn.update(rows.loc[erased, "source_sha256"])
    rows = rows[~erased]
    held = {key: (source, content) for source, key, _, content in _contents(table)}
    conflicts: dict[str, str] = {}
    for source, key, study, content in _contents(rows):
        first_source, first_content = held.setdefault(key, (source, content))
        if source == first_source:
            accounting.stored.add(source)
        elif content == first_content:
            accounting.known.add(source)
        else:
            accounting.quarantined[source] = QuarantineReason.CONFLICT.value
            conflicts[source] = study
    new = rows[rows["source_sha256"].isin(accounting.stored)]
    batch = new.set_index(["instance_key", "frame"])["batch"]
    ordered = schema.in_order(schema.conform(new.reset_index(drop=True)))
    ordered["batch"] = batch.loc[pd.MultiIndex.from_frame(ordered[["instance_key", "frame"]])].to_numpy()
    return Settled(rows=ordered, folders=folders, conflicts=conflicts)


def _contents(rows: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Source digest, instance, study and content (its frames' digests in order) of each instance, by source digest."""
    ordered = rows.sort_values(["source_sha256", "instance_key", "frame"])
    grouped = ordered.groupby(["source_sha256", "instance_key", "study_key"], sort=True)["pixel_sha256"]
    return [(str(source), str(key), str(study), ",".join(of)) for (source, key, study), of in grouped]
