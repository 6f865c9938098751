"""Facts about rows of a collection's table: what the scanner said, checked for plausibility; no pixel is read.

One row a frame, numbers and booleans only, as for images; what a whole series must agree on stands in every row
of that series.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort.prepare import MAX_RESCALE

MODALITIES = frozenset(
    ("CR", "CT", "DX", "ES", "IO", "MG", "MR", "NM", "OP", "OT", "PT", "PX", "RF", "RG", "SC", "SM", "US", "XA", "XC")
)
"""PS3.3 C.7.3.1.1.1, those that hold images."""
PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2", "RGB"})
CT_RANGE_HU = (-3100.0, 32767.0)
"""Air is -1000; padding outside the field of view is -2000 or -3024 by vendor. Sixteen bits end above."""
ORTHOGONAL_TOLERANCE = 1e-3
_KEYS = {"patient_key": "pt", "study_key": "st", "series_key": "se", "instance_key": "in"}
_CODES = ("modality", "body_part", "view_position", "laterality", "photometric", "units", "sex")
_IDENTIFIER = r"[\^@]|\d{5,}|\d+\.\d+\.\d+"


def facts(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a frame of `rows` (see docs/data-format.md), index 0..n-1."""
    rows = rows.reset_index(drop=True)
    volumes = rows.groupby("series_key")
    low, high = (rows[name] * rows["rescale_slope"] + rows["rescale_intercept"] for name in ("pixel_min", "pixel_max"))
    hounsfield = (rows["modality"] == "CT") & (rows["units"] == "HU")
    columns = {
        "instance_key": rows["instance_key"],
        "frame_copies": rows.groupby(["instance_key", "frame"])["frame"].transform("size"),
        "series_studies": volumes["study_key"].transform("nunique"),
        "study_patients": rows.groupby("study_key")["patient_key"].transform("nunique"),
        "residue": residue(rows),
        "modality_known": rows["modality"].isin(MODALITIES),
        "photometric_known": rows["photometric"].isin(PHOTOMETRIC),
        "bits_stored": rows["bits_stored"],
        "rescale_sane": _rescale_sane(rows),
        "ct_in_hounsfield": (rows["modality"] != "CT") | (rows["units"] == "HU"),
        "ct_below_range_hu": np.where(hounsfield, CT_RANGE_HU[0] - np.minimum(low, high), np.nan),
        "ct_above_range_hu": np.where(hounsfield, np.maximum(low, high) - CT_RANGE_HU[1], np.nan),
        "spacing_row_mm": rows["spacing_row_mm"],
        "spacing_column_mm": rows["spacing_column_mm"],
        "thickness_mm": rows["thickness_mm"],
        "orientation_error": _orientation_error(rows["orientation"]),
        "constant": rows["pixel_min"] == rows["pixel_max"],
        "age_years": rows["age_years"],
        "series_spacings": _distinct(rows, ["spacing_row_mm", "spacing_column_mm"]),
        "series_orientations": volumes["orientation"].transform("nunique"),
        "series_gap_ratio": _gap_ratio(rows),
    }
    return pd.DataFrame(columns)


def residue(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(n,) whether a key is no pseudonym, or a coded text holds a caret, an address, a long number or a UID."""
    suspicious = np.zeros(len(rows), dtype=bool)
    for name, prefix in _KEYS.items():
        suspicious |= ~rows[name].str.fullmatch(rf"{prefix}-[0-9a-f]{{32}}").to_numpy(dtype=bool)
    labels = [name for name in rows.columns if name.startswith("label_")]
    for name in (*_CODES, *labels):
        suspicious |= rows[name].str.contains(_IDENTIFIER).to_numpy(dtype=bool)
    return suspicious


def _rescale_sane(rows: pd.DataFrame) -> pd.Series:
    slope, intercept = rows["rescale_slope"].abs(), rows["rescale_intercept"].abs()
    return (slope > 0) & (slope <= MAX_RESCALE) & (intercept <= MAX_RESCALE)


def _orientation_error(orientation: pd.Series) -> npt.NDArray[np.float64]:
    """(n,) how far row and column direction are from unit length and right angles; NaN where there are none."""
    known = (orientation.str.count(r"\\") == 5).to_numpy(dtype=bool)  # noqa: PLR2004 - six cosines
    errors = np.full(len(orientation), np.nan)
    if known.any():
        cosines_N6 = np.array([text.split("\\") for text in orientation[known]], dtype=np.float64)
        row_N3, column_N3 = cosines_N6[:, :3], cosines_N6[:, 3:]
        lengths = [np.abs(np.linalg.norm(axis_N3, axis=1) - 1) for axis_N3 in (row_N3, column_N3)]
        errors[known] = np.max([*lengths, np.abs((row_N3 * column_N3).sum(axis=1))], axis=0)
    return errors


def _distinct(rows: pd.DataFrame, names: list[str]) -> pd.Series:
    """Distinct combinations of `names` in each row's series."""
    counts = rows[["series_key", *names]].round(4).drop_duplicates().groupby("series_key").size()
    return rows["series_key"].map(counts)


def _gap_ratio(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """(n,) largest step between neighbouring slices of the row's series over the median step; NaN where unknown.

    Repeated positions (echoes, time points) are one slice. 1 is a gapless volume, 2 says that a slice is missing.
    """
    ratios = np.full(len(rows), np.nan)
    for indices in rows.groupby("series_key").indices.values():
        positions = np.unique(rows["slice_position_mm"].to_numpy()[indices].round(2))
        steps = np.diff(positions[np.isfinite(positions)])
        if len(steps) > 1 and np.median(steps) > 0:
            ratios[indices] = steps.max() / np.median(steps)
    return ratios
