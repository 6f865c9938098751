"""Collections and cohorts of volumes made of real radiographs: one a series, moving and fading from slice to slice.

It moves aslant, so that planes along every axis show much of the radiograph: people are told apart in each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medgan.cohort import prepare
from medgan.collection import schema
from medgan.records import CohortSnapshot, CollectionSnapshot, ValidatedCohort, sha256_hex
from medgan.settings import Zones
from medgan.validation import admit
from tests.builders.cohort import FINDINGS, commit, handle, radiographs, xray_recipe

SLICES, SLICE_MM, PIXEL_MM = 14, 10.0, 5.0


def fading(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 14, 28, 28) uint16, no two slices alike, and (N,) labels 0..1."""
    pixels, labels = radiographs(count)
    fade = 1 - 0.6 * np.abs(np.linspace(-1, 0.9, SLICES))[None, :, None, None]
    moved = np.stack([np.roll(pixels, (at, 2 * at), (1, 2)) for at in range(SLICES)], axis=1)
    return (200.0 * moved * fade).astype(np.uint16), labels


def volume_rows(pixels: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Table rows of one series a patient; column `source` indexes the slices (N * D, H, W). Files come in any order."""
    rows = [
        {
            **{f"{level}_key": handle(prefix, i) for level, prefix in (("patient", "pt"), ("study", "st"))},
            "series_key": handle("se", i),
            "instance_key": handle("in", i * SLICES + at),
            "pack": "x".join(map(str, pixels.shape[2:])) + f"-{pixels.dtype.name}",
            "pixel_sha256": sha256_hex(np.ascontiguousarray(pixels[i, at]).tobytes()),
            "source_sha256": sha256_hex(f"source {i} {at}".encode()),
            "modality": "MR",
            "photometric": "MONOCHROME2",
            "units": "1",
            "bits_stored": 16,
            "rescale_slope": 1.0,
            "rescale_intercept": 0.0,
            "spacing_row_mm": PIXEL_MM,
            "spacing_column_mm": PIXEL_MM,
            "thickness_mm": SLICE_MM,
            "orientation": "1\\0\\0\\0\\1\\0",
            "slice_position_mm": at * SLICE_MM - 60,
            "instance_number": SLICES - at,  # this scanner counts from the other end
            "sex": "FM"[i % 2],
            "age_years": 20.0 + i % 60,
            "label_finding": FINDINGS[labels[i]],
            "pixel_min": float(pixels[i, at].min()),
            "pixel_max": float(pixels[i, at].max()),
            "pixel_mean": float(pixels[i, at].mean()),
            "pixel_std": float(pixels[i, at].std()),
        }
        for i in range(len(pixels))
        for at in range(SLICES)
    ]
    table = schema.in_order(schema.frame_of(rows))
    number_of = {row["instance_key"]: number for number, row in enumerate(rows)}
    return table.assign(source=[number_of[key] for key in table["instance_key"]])


def volume_collection(zones: Zones, count: int) -> CollectionSnapshot:
    """`count` patients with a series each, stored in a shuffled order."""
    pixels, labels = fading(count)
    rows = volume_rows(pixels, labels).sample(frac=1, random_state=3)
    return commit(rows, pixels.reshape(-1, *pixels.shape[2:]), zones, f"volumes-{count}")


def volume_cohort(zones: Zones, count: int, size_px: int = 32) -> CohortSnapshot:
    """Their volumes of `size_px` voxels a side."""
    recipe = xray_recipe(size_px, name="volumes", modalities=("MR",), volumes=True)
    return prepare.prepare(volume_collection(zones, count), recipe, zones=zones)


def admitted_volumes(zones: Zones, count: int, size_px: int = 32) -> ValidatedCohort:
    """`volume_cohort`, admitted."""
    return admit.admit(volume_cohort(zones, count, size_px), zones=zones)
