"""Facts about a cohort, one row an image, so that great-expectations sees numbers and booleans and never a value.

Everything that could identify (text, keys of patients) is reduced here to a boolean or a count; the expectations'
results and the Data Docs can then be complete without carrying anything that should not be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.cohort.read import Cohort
from medgan.cohort.split import SPLITS
from medgan.validation import likeness

BLOCK_IMAGES = 1024
_LEVELS = 256
_KEYS = {"patient_key": "pt", "study_key": "st", "series_key": "se", "instance_key": "in"}
_SEXES = ("", "F", "M", "O")
_CLASS = r"[A-Za-z][A-Za-z _/+.-]{0,63}"
"""A class is a word: a number, a date or a name with a caret is not one."""
_IDENTIFIER = r"\^|@|\d{5,}|\d+\.\d+\.\d+|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}"
"""A person name's caret, an address, a number, a UID, a date."""


def of_cohort(cohort: Cohort) -> pd.DataFrame:
    """One row an image: `instance_key`, then numbers and booleans; index 0..N-1."""
    facts = pd.concat([_of_pixels(cohort), _of_rows(cohort)], axis=1)
    facts = pd.concat([facts, likeness.facts(cohort.images, cohort.table)], axis=1)
    facts.insert(0, "instance_key", cohort.table["instance_key"])
    return facts


def of_classes(cohort: Cohort) -> pd.DataFrame:
    """One row a class and split: `class_number` (index in `classes`), `split`, `images`, `share` of the split."""
    rows = []
    for split in SPLITS:
        of_split = cohort.table[cohort.table["split"] == split]
        for number, name in enumerate(cohort.classes):
            images = int((of_split["class"] == name).sum())
            share = images / len(of_split) if len(of_split) else 0.0
            rows.append({"class_number": number, "split": split, "images": images, "share": share})
    return pd.DataFrame(rows)


def _of_pixels(cohort: Cohort) -> pd.DataFrame:
    low, high = cohort.attrs["intensity_range"]
    blocks = [_of_block(block, low, high) for block in _blocks(cohort.images)]
    return pd.concat(blocks, ignore_index=True)


def _of_block(images_NHW: npt.NDArray[np.uint16], low: int, high: int) -> pd.DataFrame:
    """Statistics in units of the window: 0 is its lower end, 1 its upper."""
    flat_NP = images_NHW.reshape(len(images_NHW), -1)
    window_NP = (flat_NP.astype(np.float64) - low) / (high - low)
    middle_N1 = np.quantile(window_NP, [0.05, 0.5, 0.95], axis=1)
    return pd.DataFrame(
        {
            "mean": window_NP.mean(axis=1),
            "std": window_NP.std(axis=1),
            "minimum": window_NP.min(axis=1),
            "maximum": window_NP.max(axis=1),
            "p05": middle_N1[0],
            "median": middle_N1[1],
            "p95": middle_N1[2],
            "entropy_bits": _entropy_bits(window_NP),
            "saturated_low": (flat_NP == low).mean(axis=1),
            "saturated_high": (flat_NP == high).mean(axis=1),
            "constant": flat_NP.min(axis=1) == flat_NP.max(axis=1),
            "blank_border": _blank_border(images_NHW),
            "sharpness": _sharpness(window_NP.reshape(images_NHW.shape)),
        }
    )


def _entropy_bits(window_NP: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) Shannon entropy of each image's histogram of 256 levels, 0..8 bits."""
    levels_NP = np.clip(window_NP * _LEVELS, 0, _LEVELS - 1).astype(np.int64)
    offset_N1 = _LEVELS * np.arange(len(levels_NP))[:, None]
    counts_NL = np.bincount((levels_NP + offset_N1).ravel(), minlength=_LEVELS * len(levels_NP)).reshape(-1, _LEVELS)
    share_NL = counts_NL / levels_NP.shape[1]
    return np.asarray(-(share_NL * np.log2(np.where(share_NL > 0, share_NL, 1))).sum(axis=1))


def _blank_border(images_NHW: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """(N,) share of rows, or of columns, that hold one value only: padding, collimation, a cropped or lost part."""
    rows_NH = images_NHW.min(axis=2) == images_NHW.max(axis=2)
    columns_NW = images_NHW.min(axis=1) == images_NHW.max(axis=1)
    return np.asarray(np.maximum(rows_NH.mean(axis=1), columns_NW.mean(axis=1)))


def _sharpness(window_NHW: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) mean absolute difference of neighbours over the standard deviation: blur lowers it, noise raises it."""
    across = np.abs(np.diff(window_NHW, axis=2)).mean(axis=(1, 2)) + np.abs(np.diff(window_NHW, axis=1)).mean(
        axis=(1, 2)
    )
    return np.asarray(across / np.maximum(window_NHW.std(axis=(1, 2)), 1e-9))


def _of_rows(cohort: Cohort) -> pd.DataFrame:
    table = cohort.table
    digests = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in cohort.images]
    copies = pd.DataFrame({"digest": digests, "split": table["split"], "patient": table["patient_key"]})
    groups = copies.groupby("digest")
    facts: dict[str, Any] = {
        "row_id_in_place": table["id"].to_numpy() == np.arange(len(table)),
        "instance_copies": table.groupby(["instance_key", "frame"])["id"].transform("size"),
        "patient_splits": table.groupby("patient_key")["split"].transform("nunique"),
        "split_known": table["split"].isin(SPLITS),
        "class_known": table["class"].isin(cohort.classes),
        "class_is_a_word": table["class"].str.fullmatch(_CLASS),
        "exact_copy_across_splits": groups["split"].transform("nunique") > 1,
        "exact_copy_across_patients": groups["patient"].transform("nunique") > 1,
        "residue": _residue(table),
    }
    if "sex" in table:
        facts["sex_known"] = table["sex"].isin(_SEXES)
    if "age_years" in table:
        facts["age_years"] = table["age_years"].astype("float64")
    for name in ("window_low", "window_high", "spacing_mm"):
        if name in table:
            facts[name] = table[name].astype("float64")
    return pd.DataFrame(facts)


def _residue(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(N,) whether a text looks like an identifier: a key that is no pseudonym, a date, a UID, a name, an address."""
    suspicious = np.zeros(len(table), dtype=bool)
    for name, prefix in _KEYS.items():
        if name in table:
            suspicious |= ~table[name].str.fullmatch(rf"{prefix}-[0-9a-f]{{32}}").to_numpy(dtype=bool)
    for name in _text_columns(table):
        suspicious |= table[name].str.contains(_IDENTIFIER).to_numpy(dtype=bool)
    return suspicious


def _text_columns(table: pd.DataFrame) -> list[str]:
    checked = {*_KEYS, "pixel_sha256", "split"}
    return [name for name in table.columns if name not in checked and pd.api.types.is_string_dtype(table[name])]


def _blocks(images_NHW: npt.NDArray[np.uint16]) -> Iterator[npt.NDArray[np.uint16]]:
    for start in range(0, len(images_NHW), BLOCK_IMAGES):
        yield images_NHW[start : start + BLOCK_IMAGES]
