"""A synthetic cohort whose images are given: what a gate must judge, without a generator."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from medgan.cohort import synthetic
from medgan.collection import durable, table
from medgan.records import CohortSpec, SyntheticCohort, ValidatedCohort, sha256_hex
from medgan.settings import Zones
from medgan.synthesis import blocks


def synthetic_of(
    images: np.ndarray,
    classes: np.ndarray,
    cohort: ValidatedCohort,
    zones: Zones,
    *,
    masks: np.ndarray | None = None,
    structures: tuple[str, ...] = (),
) -> SyntheticCohort:
    """Store (N, H, W) uint16 images, (N,) class names and (N, H, W) uint8 masks as if a model of `cohort` made them."""
    labels = table.to_parquet(
        pd.DataFrame({"id": np.arange(len(images), dtype=np.int64), "split": "train", "class": classes})
    )
    pixels = synthetic.pixel_digest(images)
    outlined = None if masks is None else synthetic.pixel_digest(masks)
    handle = "sy-" + sha256_hex(pixels.encode() + labels + (outlined or "").encode())[:32]
    made = SyntheticCohort(
        synthetic=handle,
        model="mo-" + "0" * 32,
        cohort=cohort.cohort.cohort,
        spec=CohortSpec(images=len(images)),
        images=len(images),
        class_counts={name: int((classes == name).sum()) for name in cohort.cohort.classes},
        size_px=images.shape[1],
        pixel_sha256=pixels,
        labels_sha256=hashlib.sha256(labels).hexdigest(),
        structures=structures,
        masks_sha256=outlined,
    )
    home = synthetic.folder(handle, zones=zones)
    if not home.exists():
        with durable.new_folder(home) as staging:
            attributes = {"intensity_range": [0, 65535], "rescale_slope": 1 / 65535, "rescale_intercept": 0.0}
            described, rows = attributes | {"units": "1"}, synthetic.SHARD_IMAGES
            path = staging / synthetic.IMAGES
            blocks.create_images(path, images.shape, described, block_images=rows, structures=structures)
            synthetic.open_images(path, mode="r+")[:] = images
            if masks is not None:
                synthetic.open_masks(path, mode="r+")[:] = masks
            (staging / synthetic.LABELS).write_bytes(labels)
            (staging / synthetic.RECORD).write_bytes(made.canonical())
    return made
