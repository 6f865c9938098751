"""A validated cohort of the 5,030 real radiographs, without going through DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medgan.cohort import layout, read, resample
from medgan.cohort.split import split_of
from medgan.cohort.write import SHARD_IMAGES, CohortContent, write
from medgan.records import CohortRecipe, ValidatedCohort, sha256_hex
from medgan.settings import Zones

SAMPLES = Path(__file__).parents[1] / "samples" / "pneumoniamnist" / "pneumoniamnist.npz"
FINDINGS = ("normal", "pneumonia")


def radiographs(images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 28, 28) uint8 images and (N,) labels 0..1, in the sample's own order; every 5030/N-th of them."""
    with np.load(SAMPLES, allow_pickle=False) as sample:
        pixels = np.concatenate([sample[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([sample[f"{part}_labels"].reshape(-1) for part in ("train", "val", "test")])
    rows = np.linspace(0, len(pixels) - 1, images or len(pixels)).round().astype(int)
    return pixels[rows], labels[rows]


def xray_recipe(size_px: int = 32, **changes) -> CohortRecipe:
    values = {"name": "chest-xray", "modalities": ("DX",), "class_attribute": "finding", "size_px": size_px}
    return CohortRecipe(**(values | changes))


def pneumonia_cohort(zones: Zones, images: int | None = None, size_px: int = 32) -> ValidatedCohort:
    """One patient an image, classes normal and pneumonia, split 0.76/0.12/0.12 by pseudonym."""
    pixels, labels = radiographs(images)
    recipe = xray_recipe(size_px)
    patients = [f"pt-{sha256_hex(f'patient {index}'.encode())[:32]}" for index in range(len(pixels))]
    table = pd.DataFrame(
        {
            "id": np.arange(len(pixels), dtype=np.int64),
            "patient_key": patients,
            "series_key": [f"se-{sha256_hex(f'series {index}'.encode())[:32]}" for index in range(len(pixels))],
            "instance_key": [f"in-{sha256_hex(f'instance {index}'.encode())[:32]}" for index in range(len(pixels))],
            "class": [FINDINGS[label] for label in labels],
            "sex": np.where(np.arange(len(pixels)) % 2, "F", "M"),
            "age_years": 20.0 + np.arange(len(pixels)) % 60,
            "split": [split_of(patient, recipe) for patient in patients],
        }
    )
    handle = layout.handle(sha256_hex(pixels.tobytes()), recipe)
    snapshot = read.record(handle, zones=zones)
    if snapshot is None:
        windows = [resample.window_of(image.astype(float), recipe.intensity_percentiles) for image in pixels]
        squares = np.stack(
            [
                resample.to_stored(resample.to_square(image.astype(float), size_px), window)
                for image, window in zip(pixels, windows, strict=True)
            ]
        )
        blocks = (squares[start : start + SHARD_IMAGES] for start in range(0, len(squares), SHARD_IMAGES))
        attributes = {
            "intensity_range": [0, resample.STORED_MAX],
            "rescale_slope": 1 / resample.STORED_MAX,
            "rescale_intercept": 0.0,
            "units": "1",
        }
        content = CohortContent(blocks=blocks, table=table, attributes=attributes)
        snapshot = write(handle, content, recipe=recipe, collection_snapshot="builder", zones=zones)
    return ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)
