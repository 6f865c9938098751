"""Synthetic cohorts in the documented format, made of real radiographs, with records that agree.

The pixels are PneumoniaMNIST's (they stand in for a generator's output: publishing looks at bytes and
records, not at how images came about); the reports are what the rooms before would have written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from medgan.cohort.synthetic import pixel_digest
from medgan.privacy.attack import GATE
from medgan.records import (
    ClearedCohort,
    CohortSpec,
    GateTest,
    Measure,
    PrivacyReport,
    QualityReport,
    ReleaseRequest,
    SyntheticCohort,
    SyntheticCohortRef,
    Verdict,
    sha256_hex,
)
from medgan.settings import Zones

SAMPLES = Path(__file__).parents[1] / "samples" / "pneumoniamnist" / "pneumoniamnist.npz"
CREATED = "2026-11-20T22:00:00Z"
ATTRIBUTES = {
    "intensity_range": [0, 65535],
    "rescale_slope": 1.0,
    "rescale_intercept": 0.0,
    "units": "arbitrary",
    "spacing_mm": [10.0, 10.0],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built cohort: `images` (N, 28, 28) uint16, its labels, and the pointer that the gate would give."""

    cleared: ClearedCohort
    folder: Path
    images: npt.NDArray[np.uint16]
    labels: pd.DataFrame
    masks: npt.NDArray[np.uint8] | None


def radiographs(count: int, *, start: int = 0) -> tuple[npt.NDArray[np.uint16], list[str]]:
    """`count` real images (count, 28, 28) as uint16 over the full range, and their classes."""
    with np.load(SAMPLES, allow_pickle=False) as held:
        order = np.random.default_rng(7).permutation(len(held["train_images"]))[start : start + count]
        images = held["train_images"][order].astype(np.uint16) * 257
        classes = ["pneumonia" if label else "normal" for label in held["train_labels"][order, 0]]
    return images, classes


def synthetic_cohort(
    zones: Zones,
    *,
    count: int = 1100,
    start: int = 0,
    verdict: Verdict = Verdict.CLEARED,
    policy: dict[str, object] | None = None,
    images: npt.NDArray[np.uint16] | None = None,
    classes: list[str] | None = None,
    structures: tuple[str, ...] = (),
) -> Built:
    """Write `synthetic/cohorts/<id>/` whole and give the pointer to it; other `images` and `classes` on request.

    `policy` is what the privacy report says of its policy; reports of old say nothing. With `structures` (two) there
    are `masks` of them.
    """
    real, found = radiographs(count, start=start)
    pixels, classes = (real if images is None else images), classes or found
    labels = label_table(classes)
    masks = masks_of(pixels) if structures else None
    handle = "sy-" + hashlib.sha256(pixels.tobytes()).hexdigest()[:32]
    folder = zones.synthetic / "cohorts" / handle
    folder.mkdir(parents=True, exist_ok=True)
    write_images(folder / "images.zarr", pixels, masks, structures)
    labels.to_parquet(folder / "labels.parquet", index=False)
    synthetic = SyntheticCohort(
        synthetic=handle,
        model="mo-" + "1" * 32,
        cohort="co-" + "2" * 32,
        spec=CohortSpec(images=count, seed=start),
        images=count,
        class_counts={name: classes.count(name) for name in sorted(set(classes))},
        size_px=pixels.shape[1],
        pixel_sha256=pixel_digest(pixels),
        labels_sha256=sha256_hex((folder / "labels.parquet").read_bytes()),
        structures=structures,
        masks_sha256=None if masks is None else pixel_digest(masks),
    )
    (folder / "synthetic.json").write_bytes(synthetic.canonical())
    model = zones.pseudonymised / "models" / synthetic.model
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_bytes(b"{}")  # publishing reads there that the model is not of single patients
    quality = write_quality(folder, synthetic)
    privacy = write_privacy(folder, synthetic, verdict, policy)
    cleared = ClearedCohort(
        synthetic=SyntheticCohortRef(
            synthetic=handle,
            pixel_sha256=synthetic.pixel_sha256,
            labels_sha256=synthetic.labels_sha256,
            masks_sha256=synthetic.masks_sha256,
        ),
        quality_sha256=quality.report_sha256,
        privacy_sha256=privacy.report_sha256,
        policy=privacy.policy,
        policy_sha256=privacy.policy_sha256,
    )
    return Built(cleared=cleared, folder=folder, images=pixels, labels=labels, masks=masks)


def masks_of(images: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Two structures by rule: what is dark between the flanks (about the lungs), and what is brightest (bones)."""
    masks = np.zeros(images.shape, np.uint8)
    masks[:, 4:-6, 4:-4][images[:, 4:-6, 4:-4] < 90 * 257] = 1
    masks[images > 190 * 257] = 2
    return masks


def label_table(classes: list[str]) -> pd.DataFrame:
    """Labels as synthesis writes them: one row an image."""
    count = len(classes)
    bands = ["0-9", "10-19", "20-29", "30-39"]
    return pd.DataFrame(
        {
            "id": np.arange(count, dtype=np.int64),
            "split": ["train"] * count,
            "class": classes,
            "sex": ["F" if row % 2 else "M" for row in range(count)],
            "age_band": [bands[row % len(bands)] for row in range(count)],
        }
    )


def write_images(
    path: Path,
    images: npt.NDArray[np.uint16],
    masks: npt.NDArray[np.uint8] | None = None,
    structures: tuple[str, ...] = (),
) -> None:
    """`images.zarr` as the format asks."""
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    arrays = [("images", images, ATTRIBUTES)]
    if masks is not None:
        arrays.append(("masks", masks, {"structures": list(structures)}))
    for name, pixels, attributes in arrays:
        size = pixels.dtype.itemsize
        array = group.create_array(
            name,
            shape=pixels.shape,
            dtype=pixels.dtype,
            chunks=(16, *pixels.shape[1:]),
            shards=(1024, *pixels.shape[1:]),
            compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=size), Crc32cCodec()],
            fill_value=0,
            attributes=attributes,
        )
        array[:] = pixels


def write_quality(folder: Path, synthetic: SyntheticCohort) -> QualityReport:
    """`quality.json`, `quality.html` and the record."""
    measures = (
        Measure(name="frechet", value=14.2, reference=3.1, reference_name="train to holdout", count=synthetic.images),
        Measure(name="coverage", value=0.81, reference=0.93, reference_name="train to holdout", better="higher"),
        Measure(name="tstr_auc", value=0.902, reference=0.915, reference_name="real on real", better="higher"),
    )
    body = json.dumps({"measures": [m.model_dump() for m in measures]}).encode()
    (folder / "quality.json").write_bytes(body)
    (folder / "quality.html").write_text("<!doctype html><title>quality</title>")
    record = QualityReport(
        synthetic=synthetic.synthetic,
        cohort=synthetic.cohort,
        pixel_sha256=synthetic.pixel_sha256,
        masks_sha256=synthetic.masks_sha256,
        encoder_sha256="3" * 64,
        measures=measures,
        report_sha256=sha256_hex(body),
    )
    (folder / "quality-record.json").write_bytes(record.canonical())
    return record


def write_privacy(
    folder: Path, synthetic: SyntheticCohort, verdict: Verdict, policy: dict[str, object] | None = None
) -> PrivacyReport:
    """`privacy.json`, `privacy.html` and the record with `verdict`."""
    tests = (
        GateTest(
            test="nearest",
            title="Near copies of training images, against holdout",
            value=0.011,
            limit=0.02,
            passed=verdict is Verdict.CLEARED,
        ),
        GateTest(test="membership", title="Membership inference, TPR at 1% FPR", value=0.012, limit=0.03, passed=True),
    )
    said = {"policy": policy} if policy is not None else {}
    body = json.dumps({"verdict": verdict, "tests": [t.model_dump() for t in tests]} | said).encode()
    (folder / "privacy.json").write_bytes(body)
    (folder / "privacy.html").write_text("<!doctype html><title>privacy</title>")
    record = PrivacyReport(
        synthetic=synthetic.synthetic,
        cohort=synthetic.cohort,
        pixel_sha256=synthetic.pixel_sha256,
        labels_sha256=synthetic.labels_sha256,
        masks_sha256=synthetic.masks_sha256,
        gate=GATE,
        policy="strict",
        policy_sha256="4" * 64,
        verdict=verdict,
        tests=tests,
        not_tested=(
            "attribute inference by an insider who holds the generator",
            "attacks with more than 1,000 shadow models",
        ),
        report_sha256=sha256_hex(body),
    )
    (folder / "privacy-record.json").write_bytes(record.canonical())
    return record


def request(name: str = "chest-demo", **changes: object) -> ReleaseRequest:
    """A release request; `changes` override its fields."""
    fields: dict[str, object] = {
        "name": name,
        "title": "Chest radiographs, synthetic",
        "licence": "CC-BY-4.0",
        "terms": "For research and teaching. Not for diagnosis.",
        "attribution": "Made from PneumoniaMNIST (CC BY 4.0).",
        "created": CREATED,
        "night": 1,
    }
    return ReleaseRequest.model_validate(fields | changes)
