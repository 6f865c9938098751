"""Attributes of a de-identified instance that the table keeps, read without trusting their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgan.archive.series import FrameGeometry

_NOT_A_NUMBER = float("nan")


def of_instance(dataset: Any) -> dict[str, Any]:
    """Table columns that are the same for every frame of `dataset` (a de-identified pydicom Dataset)."""
    spacing = _spacing(dataset)
    return {
        "modality": text(dataset, "Modality"),
        "body_part": text(dataset, "BodyPartExamined"),
        "view_position": text(dataset, "ViewPosition"),
        "laterality": text(dataset, "ImageLaterality") or text(dataset, "Laterality"),
        "manufacturer": text(dataset, "Manufacturer"),
        "instance_number": whole(dataset, "InstanceNumber"),
        "spacing_row_mm": spacing[0],
        "spacing_column_mm": spacing[1],
        "thickness_mm": number(dataset, "SliceThickness"),
        "study_date": text(dataset, "StudyDate"),
        "sex": text(dataset, "PatientSex"),
        "age_years": age_years(text(dataset, "PatientAge")),
    }


def of_frame(geometry: FrameGeometry) -> dict[str, Any]:
    """Table columns that a frame's own geometry gives."""
    cosines = (*geometry.row_direction, *geometry.column_direction)
    return {
        **dict(zip(("position_x", "position_y", "position_z"), geometry.position, strict=True)),
        "orientation": "\\".join(f"{cosine:.6f}" for cosine in cosines),
        "slice_position_mm": geometry.depth_mm,
        "spacing_row_mm": geometry.spacing_mm[0],
        "spacing_column_mm": geometry.spacing_mm[1],
        "thickness_mm": geometry.thickness_mm,
    }


def text(dataset: Any, keyword: str) -> str:
    """One string value; empty where it is missing, multiple values joined."""
    value = _value(dataset, keyword)
    if value is None:
        return ""
    joined = value if isinstance(value, str) else "\\".join(map(str, _sequence(value)))
    return "".join(character for character in joined if character.isprintable()).strip()


def number(dataset: Any, keyword: str) -> float:
    """One real value; NaN where it is missing or no number."""
    return _real(_value(dataset, keyword))


def whole(dataset: Any, keyword: str) -> int:
    """One integer value in 64 bits; 0 where it is missing or no integer."""
    value = number(dataset, keyword)
    return int(value) if math.isfinite(value) and abs(value) < 2**53 else 0


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...]:
    """Exactly `count` reals, all NaN where there are not as many."""
    values = _sequence(_value(dataset, keyword))
    if len(values) != count:
        return (_NOT_A_NUMBER,) * count
    return tuple(_real(value) for value in values)


def age_years(age: str) -> float:
    """An Age String (PS3.5 6.2: nnnD, nnnW, nnnM, nnnY) in years; NaN where it is none."""
    per_year = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
    if len(age) == 4 and age[:3].isdecimal() and age[3] in per_year:  # noqa: PLR2004 - fixed width
        return int(age[:3]) / per_year[age[3]]
    return _NOT_A_NUMBER


def _spacing(dataset: Any) -> tuple[float, ...]:
    """(row, column) spacing in mm: in the patient where it is given, at the detector otherwise."""
    in_patient = numbers(dataset, "PixelSpacing", 2)
    return in_patient if math.isfinite(sum(in_patient)) else numbers(dataset, "ImagerPixelSpacing", 2)


def _value(dataset: Any, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom converts lazily and raises whatever the bytes provoke
        return None


def _sequence(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _real(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return _NOT_A_NUMBER
