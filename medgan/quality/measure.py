"""Measure a synthetic cohort: read both sides, compare, and write report and record beside the synthetic images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from medgan.cohort import planes, read, stored
from medgan.cohort import synthetic as synthetic_cohorts
from medgan.cohort.outlines import outlined
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.gan import grid, train
from medgan.quality import outlines, report
from medgan.quality.compare import Comparison, Sample, compare
from medgan.records import Measure, QualityReport, SyntheticCohort, ValidatedCohort, sha256_hex
from medgan.settings import Zones

FORMAT = 3
"""Raised whenever the same images would be measured otherwise."""
REPORT, PAGE, RECORD = "quality.json", "quality.html", "quality-record.json"
_COLUMNS, _ROWS = 16, 8


def measure(synthetic: SyntheticCohort, cohort: ValidatedCohort, *, zones: Zones) -> QualityReport:
    """Write `quality.json`, `quality.html` and `quality-record.json`; the same cohorts give the same bytes.

    Volumes are measured by their middle slices. Page and report hold synthetic images and aggregates of real ones
    only. A grid of real beside synthetic images lies with the model, in the pseudonymised zone.

    Raises:
        InvalidRequest: the cohort is not the one the images were made from, or a side is too small.
        IntegrityError: stored images are not what their records say.
    """
    if not read.is_of(synthetic.cohort, cohort.cohort, zones=zones):
        raise InvalidRequest("these images were made from another cohort: measure them against their own")
    made = synthetic_cohorts.load(synthetic, zones=zones)
    home = synthetic_cohorts.folder(synthetic.synthetic, zones=zones)
    finished = _finished(home, synthetic)
    if finished is not None:
        return finished
    real = read.load(cohort.cohort, zones=zones)
    index_of = {name: index for index, name in enumerate(real.classes)}
    images, class_index, _ = real.split("train")
    images = planes.middle(images)
    taught = Sample(stored=images, class_index=class_index, attrs=real.attrs)
    held = [real.split(name)[:2] for name in ("holdout-1", "holdout-2")]
    holdout = Sample(
        stored=planes.middle(np.concatenate([part[0] for part in held])),
        class_index=np.concatenate([part[1] for part in held]),
        attrs=real.attrs,
    )
    ours = Sample(
        stored=planes.middle(made.images),
        class_index=np.array([index_of[name] for name in made.labels["class"]], np.int64),
        attrs=made.attrs,
    )
    with threadpool_limits(1):  # sums in one order, so that the report's bytes do not depend on the core count
        comparison = compare(ours, taught, holdout, classes=len(real.classes))
        drawn = _outlined(synthetic, made, real, zones)
    beside = zones.pseudonymised / "models" / synthetic.model / "grids"
    durable.write_bytes(beside / f"beside-{synthetic.synthetic}.png", _real_beside_synthetic(taught, ours))
    return _write(home, synthetic, comparison, ours, real.classes, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outlined:
    """What the report says of masks; nothing of a cohort without them. `masks` are (N, H, W) uint8."""

    measures: tuple[Measure, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    masks: NDArray[np.uint8] | None = None


def _outlined(
    synthetic: SyntheticCohort, made: synthetic_cohorts.Synthetic, real: read.Cohort, zones: Zones
) -> _Outlined:
    if made.masks is None:
        return _Outlined()
    model = train.load(zones.pseudonymised / "models" / synthetic.model)
    if model is None or model.outliner is None:
        raise InvalidRequest("the model that drew these masks is gone or changed: train it again")
    found = outlines.measures(model.outliner, made.masks, real)
    return _Outlined(measures=found, facts=outlines.facts(model.outliner), masks=made.masks)


def _finished(home: Path, synthetic: SyntheticCohort) -> QualityReport | None:
    """The record of a finished measurement of these very bytes, or None."""
    if not all((home / name).is_file() for name in (REPORT, PAGE)):
        return None
    record = stored.record(home / RECORD, QualityReport)
    if record is None:
        return None
    text = (home / REPORT).read_bytes()
    told = (record.pixel_sha256, record.masks_sha256, record.report_sha256)
    same = told == (synthetic.pixel_sha256, synthetic.masks_sha256, sha256_hex(text))
    return record if same and json.loads(text).get("format") == FORMAT else None


def _write(
    home: Path,
    synthetic: SyntheticCohort,
    comparison: Comparison,
    ours: Sample,
    classes: tuple[str, ...],
    drawn: _Outlined,
) -> QualityReport:
    """Report, page, and last the record that names the report's digest."""
    facts = {
        "format": FORMAT,
        "synthetic": synthetic.synthetic,
        "cohort": synthetic.cohort,
        "model": synthetic.model,
        "pixel_sha256": synthetic.pixel_sha256,
        "encoder_sha256": comparison.encoder_sha256,
        "classes": list(classes),
        "counts": comparison.counts,
        "units": str(ours.attrs.get("units", "")),
        **({"masks_sha256": synthetic.masks_sha256} if synthetic.masks_sha256 else {}),
        **drawn.facts,
    }
    measures = comparison.measures + drawn.measures
    told = [measure.model_dump(mode="json") for measure in measures]
    text = json.dumps(
        {**facts, "measures": told, "curves": comparison.curves}, sort_keys=True, indent=1, allow_nan=False
    ).encode()
    durable.write_bytes(home / REPORT, text)
    with_masks = None if drawn.masks is None else _outlined_grid(ours, drawn.masks)
    page = report.page(measures, comparison.curves, facts, _grid(ours), with_masks)
    durable.write_bytes(home / PAGE, page.encode())
    record = QualityReport(
        synthetic=synthetic.synthetic,
        cohort=synthetic.cohort,
        pixel_sha256=synthetic.pixel_sha256,
        masks_sha256=synthetic.masks_sha256,
        encoder_sha256=comparison.encoder_sha256,
        measures=measures,
        report_sha256=sha256_hex(text),
    )
    durable.write_bytes(home / RECORD, record.canonical())
    return record


def _grid(sample: Sample) -> bytes:
    """PNG of the first images, a block of rows a class."""
    return grid.png(grid.tile(_grey(sample, _first(sample, _COLUMNS * _ROWS)), _COLUMNS))


def _outlined_grid(sample: Sample, masks_NHW: NDArray[np.uint8]) -> bytes:
    """PNG of fewer of them, larger, with the outlines of their masks."""
    columns = _COLUMNS // 2
    rows = _first(sample, columns * _ROWS // 2)
    return grid.png(grid.tile(outlined(_grey(sample, rows), masks_NHW[rows]), columns))


def _real_beside_synthetic(train: Sample, ours: Sample) -> bytes:
    """PNG whose rows are real and synthetic in turn. It shows real images: for the pseudonymised zone only."""
    count = min(_COLUMNS * _ROWS // 2, len(train), len(ours)) // _COLUMNS * _COLUMNS or 1
    pairs = [_grey(sample, _first(sample, count)) for sample in (train, ours)]
    size = pairs[0].shape[-1]
    rows = [part[: count // _COLUMNS * _COLUMNS or 1].reshape(-1, min(_COLUMNS, count), size, size) for part in pairs]
    return grid.png(grid.tile(np.stack(rows, 1).reshape(-1, size, size), min(_COLUMNS, count)))


def _first(sample: Sample, count: int) -> NDArray[np.int64]:
    """Rows of the first images of each class, about equally many, `count` in all; others fill a rare one up."""
    values = np.unique(sample.class_index)
    each = [np.flatnonzero(sample.class_index == value)[: -(-count // len(values))] for value in values]
    rows = np.concatenate(each)[:count]
    others = np.setdiff1d(np.arange(len(sample.class_index)), rows)
    return np.concatenate([rows, others[: count - len(rows)]])


def _grey(sample: Sample, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    lo, hi = sample.attrs["intensity_range"]
    return grid.to_grey(sample.stored[rows], float(lo), float(hi))
