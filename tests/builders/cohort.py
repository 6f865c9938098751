"""Collections and cohorts of the 5,030 real radiographs, by the real verbs but without going through DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgan.cohort import prepare
from medgan.collection import schema, store, write
from medgan.errors import InvalidRequest
from medgan.records import CohortRecipe, CohortSnapshot, CollectionSnapshot, ValidatedCohort, sha256_hex
from medgan.settings import Zones
from medgan.validation import admit

SAMPLES = Path(__file__).parents[1] / "samples" / "pneumoniamnist" / "pneumoniamnist.npz"
FINDINGS = ("normal", "pneumonia")


def radiographs(images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 28, 28) uint8 images and (N,) labels 0..1, in the sample's own order; every 5030/N-th of them."""
    with np.load(SAMPLES, allow_pickle=False) as sample:
        pixels = np.concatenate([sample[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([sample[f"{part}_labels"].reshape(-1) for part in ("train", "val", "test")])
    rows = np.linspace(0, len(pixels) - 1, images or len(pixels)).round().astype(int)
    return pixels[rows], labels[rows]


def handle(prefix: str, number: int) -> str:
    return f"{prefix}-{sha256_hex(f'{prefix} {number}'.encode())[:32]}"


def xray_rows(pixels: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Table rows of one radiograph a patient, in canonical order; column `source` indexes `pixels`."""
    rows = [
        {
            **{f"{level}_key": handle(level[:2] if level != "patient" else "pt", i) for level in ("series", "patient")},
            "instance_key": handle("in", i),
            "study_key": handle("st", i),
            "pack": "x".join(map(str, pixels[i].shape)) + f"-{pixels[i].dtype.name}",
            "pixel_sha256": sha256_hex(np.ascontiguousarray(pixels[i]).tobytes()),
            "source_sha256": sha256_hex(f"source {i}".encode()),
            "modality": "DX",
            "photometric": "MONOCHROME2",
            "units": "1",
            "bits_stored": 8,
            "rescale_slope": 1.0,
            "rescale_intercept": 0.0,
            "sex": "FM"[i % 2],
            "age_years": 20.0 + i % 60,
            "label_finding": FINDINGS[labels[i]],
            "pixel_min": float(pixels[i].min()),
            "pixel_max": float(pixels[i].max()),
            "pixel_mean": float(pixels[i].mean()),
            "pixel_std": float(pixels[i].std()),
        }
        for i in range(len(pixels))
    ]
    table = schema.in_order(schema.frame_of(rows))
    number_of = {row["instance_key"]: i for i, row in enumerate(rows)}
    return table.assign(source=[number_of[key] for key in table["instance_key"]])


def commit(rows: pd.DataFrame, pixels: np.ndarray, zones: Zones, name: str = "main") -> CollectionSnapshot:
    """Append `rows` (see `xray_rows`) with their pixels as one commit."""
    with store.writer(name, zones=zones) as writer:
        write.append(writer, rows, lambda wanted: (pixels[i] for i in wanted["source"]))
        return write.commit(writer, f"{len(rows)} rows")


def xray_recipe(size_px: int = 32, **changes: object) -> CohortRecipe:
    values: dict[str, Any] = {
        "name": "chest-xray",
        "modalities": ("DX",),
        "class_attribute": "finding",
        "size_px": size_px,
    }
    return CohortRecipe(**(values | changes))


def prepared_cohort(zones: Zones, images: int | None = None, size_px: int = 32) -> CohortSnapshot:
    """One patient an image, classes normal and pneumonia, split 0.76/0.12/0.12 by pseudonym."""
    pixels, labels = radiographs(images)
    name = f"xray-{len(pixels)}"
    try:
        snapshot = store.head(name, zones=zones)
    except InvalidRequest:
        snapshot = None
    if snapshot is None or snapshot.instances == 0:
        snapshot = commit(xray_rows(pixels, labels), pixels, zones, name)
    return prepare.prepare(snapshot, xray_recipe(size_px), zones=zones)


def pneumonia_cohort(zones: Zones, images: int | None = None, size_px: int = 32) -> ValidatedCohort:
    """`prepared_cohort`, admitted. The sample holds 28 exact copies: of 5,030 radiographs 5,002 stay."""
    return admit.admit(prepared_cohort(zones, images, size_px), zones=zones)


STRUCTURES = ("lung", "heart")


def outlined(rows: pd.DataFrame, pixels: np.ndarray, masks: dict[str, np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    """`rows` and `pixels` with a segmentation of every row's image: for each structure one of its (N, H, W) masks.

    A mask is stored as a binary segmentation is: 1 inside. Masks are by `source`, as pixels are.
    """
    every, stored = [rows], [pixels]
    for number, (name, masks_NHW) in enumerate(masks.items(), start=1):
        keys = [handle("in", number * 1_000_000 + source) for source in rows["source"]]
        told = {
            "instance_key": keys,
            "series_key": [handle("se", number * 1_000_000 + source) for source in rows["source"]],
            "modality": "SEG",
            "label_finding": "",
            "outlines": rows["instance_key"],
            "outlines_frame": 0,
            "structure": name,
            "inside_from": 1,
            "source_sha256": [sha256_hex(key.encode()) for key in keys],
            "pixel_sha256": [sha256_hex(masks_NHW[source].tobytes()) for source in rows["source"]],
        }
        every.append(rows.assign(**told, source=rows["source"] + sum(map(len, stored))))
        stored.append(masks_NHW)
    source = pd.concat([part["source"] for part in every])
    return (
        schema.conform(pd.concat(every)).assign(source=source.to_numpy()),
        np.concatenate(stored),
    )


def lung_and_heart(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (N, H, W) uint8 of radiographs by a rule: what is darker than the middle grey, what is brightest."""
    middle, bright = (np.percentile(pixels, share, axis=(1, 2), keepdims=True) for share in (45, 80))
    return {"lung": (pixels < middle).astype(np.uint8), "heart": (pixels > bright).astype(np.uint8)}


def masked_cohort(zones: Zones, images: int = 120) -> ValidatedCohort:
    """Radiographs of 32 px, admitted, with masks of `STRUCTURES` by the rule of `lung_and_heart`."""
    pixels, labels = radiographs(images)
    snapshot = commit(*outlined(xray_rows(pixels, labels), pixels, lung_and_heart(pixels)), zones, f"masked-{images}")
    return admit.admit(prepare.prepare(snapshot, xray_recipe(structures=STRUCTURES), zones=zones), zones=zones)
