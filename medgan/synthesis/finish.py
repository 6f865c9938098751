"""The end of a cohort: labels, consolidated metadata and record; then one rename makes it visible."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import zarr
from zarr.errors import ZarrUserWarning

from medgan.cohort.synthetic import IMAGES, LABELS, RECORD
from medgan.collection import durable
from medgan.collection import table as tables
from medgan.records import CohortSpec, SyntheticCohort, TrainedModel
from medgan.sync import fsync_folder, fsync_tree
from medgan.synthesis import blocks, patients

_KEPT = {IMAGES, LABELS, RECORD}


def finish(
    staging: Path,
    home: Path,
    table: pd.DataFrame,
    digests: Mapping[int, blocks.Digests],
    model: TrainedModel,
    spec: CohortSpec,
    **facts: Any,
) -> SyntheticCohort:
    """Write what describes the images in `staging` and publish the folder as `home`.

    `digests`: first row of every block -> its images' and masks' digests; `facts` go into the record.
    """
    labels = tables.to_parquet(table)
    durable.write_bytes(staging / LABELS, labels)
    with warnings.catch_warnings(), durable.explained_disk():
        # "not part of the Zarr v3 specification": readers that do not know it ignore it
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(staging / IMAGES, zarr_format=3)
    counts, structures = table["class"].value_counts(), blocks.structures_of(model)
    made = SyntheticCohort(
        synthetic=home.name,
        model=model.model,
        cohort=model.cohort,
        spec=spec,
        images=len(table),
        patients=int(table[patients.COLUMN].nunique()) if patients.COLUMN in table else None,
        class_counts={name: int(counts.get(name, 0)) for name in model.classes},
        size_px=model.size_px,
        pixel_sha256=_joined(digests[start].images for start in sorted(digests)),
        labels_sha256=hashlib.sha256(labels).hexdigest(),
        structures=structures,
        masks_sha256=_joined(digests[start].masks for start in sorted(digests)) if structures else None,
        **facts,
    )
    durable.write_bytes(staging / RECORD, made.canonical())
    with durable.explained_disk():
        _publish(staging, home)
    return made


def _joined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _publish(staging: Path, home: Path) -> None:
    """Drop what killed writers and this run left, make everything durable, and rename the whole folder into place."""
    shutil.rmtree(staging / blocks.DRAWN, ignore_errors=True)
    for entry in staging.iterdir():
        if entry.name not in _KEPT:
            entry.unlink()
    for leftover in staging.rglob(f"*{durable.PARTIAL}"):
        leftover.unlink()
    fsync_tree(staging)
    staging.rename(home)
    fsync_folder(home.parent)
