"""A synthetic cohort whose images are given: what a gate must judge, without a generator."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import zarr

from medgan.cohort import synthetic
from medgan.collection import durable, table
from medgan.records import CohortSpec, SyntheticCohort, ValidatedCohort, sha256_hex
from medgan.settings import Zones
from medgan.synthesis import blocks


def synthetic_of(images: np.ndarray, classes: np.ndarray, cohort: ValidatedCohort, zones: Zones) -> SyntheticCohort:
    """Store (N, H, W) uint16 images and (N,) class names as if `cohort`'s generator had made them."""
    labels = table.to_parquet(
        pd.DataFrame({"id": np.arange(len(images), dtype=np.int64), "split": "train", "class": classes})
    )
    pixels = synthetic.pixel_digest(images)
    handle = "sy-" + sha256_hex(pixels.encode() + labels)[:32]
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
    )
    home = synthetic.folder(handle, zones=zones)
    if not home.exists():
        with durable.new_folder(home) as staging:
            attributes = {"intensity_range": [0, 65535], "rescale_slope": 1 / 65535, "rescale_intercept": 0.0}
            described, rows = attributes | {"units": "1"}, synthetic.SHARD_IMAGES
            blocks.create_images(staging / synthetic.IMAGES, images.shape, described, block_images=rows)
            zarr.open_array(staging / synthetic.IMAGES / "images", mode="r+", zarr_format=3)[:] = images
            (staging / synthetic.LABELS).write_bytes(labels)
            (staging / synthetic.RECORD).write_bytes(made.canonical())
    return made
