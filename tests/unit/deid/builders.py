"""Instances to de-identify: phantoms with any attribute replaced, and the real files that pydicom installs."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from medgan.archive import phantom

REAL = Path(pydicom.__file__).parent / "data"


def vendor_files() -> list[Path]:
    """Every file below pydicom's data that is meant to be DICOM."""
    return sorted(
        path
        for folder in ("test_files", "charset_files")
        for path in (REAL / folder).rglob("*")
        if path.is_file() and path.suffix in ("", ".dcm")
    )


def read(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data), force=True)


def write(dataset: Dataset) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # planted values break rules on purpose
        dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def phantom_with(modality: str = "CT", patient: int = 1, **values: Any) -> bytes:
    """One phantom instance whose attributes `values` (by keyword) are set."""
    dataset = read(phantom.phantom_study(patient=patient, modality=modality)[0])
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return write(dataset)
