"""What the collection's table says of an instance, read from its de-identified dataset."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_MACROS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
}
_DAYS = {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}


def describe(dataset: Dataset, frame: int = 0) -> dict[str, Any]:
    """Table columns of one frame: text is empty and numbers are NaN where unknown; lengths in mm, LPS."""
    spacing = _numbers(_find(dataset, "PixelSpacing", frame) or dataset.get("ImagerPixelSpacing"), 2)
    position = _numbers(_find(dataset, "ImagePositionPatient", frame), 3)
    orientation = _find(dataset, "ImageOrientationPatient", frame)
    return {
        "modality": _text(dataset, "Modality"),
        "body_part": _text(dataset, "BodyPartExamined"),
        "view_position": _text(dataset, "ViewPosition"),
        "laterality": _text(dataset, "ImageLaterality") or _text(dataset, "Laterality"),
        "manufacturer": _text(dataset, "Manufacturer"),
        "photometric": _text(dataset, "PhotometricInterpretation"),
        "bits_stored": int(dataset.get("BitsStored") or 0),
        "rescale_slope": _number(_find(dataset, "RescaleSlope", frame), 1.0),
        "rescale_intercept": _number(_find(dataset, "RescaleIntercept", frame), 0.0),
        "units": str(_find(dataset, "RescaleType", frame) or dataset.get("Units") or ""),
        "spacing_row_mm": spacing[0],
        "spacing_column_mm": spacing[1],
        "thickness_mm": _number(_find(dataset, "SliceThickness", frame)),
        "position_x": position[0],
        "position_y": position[1],
        "position_z": position[2],
        "orientation": "\\".join(str(float(x)) for x in orientation) if orientation else "",
        "study_date": _text(dataset, "StudyDate"),
        "sex": _text(dataset, "PatientSex"),
        "age_years": _years(_text(dataset, "PatientAge")),
    }


def _find(dataset: Dataset, keyword: str, frame: int) -> Any:
    """Value of `keyword` at the top, in the frame's functional groups, or in the shared ones."""
    value = dataset.get(keyword)
    if value is not None:
        return value
    for groups, at in ((_PER_FRAME, frame), (_SHARED, 0)):
        items = dataset.get(groups) or ()
        macro = items[at].get(_MACROS[keyword]) if at < len(items) else None
        if macro:
            value = macro[0].get(keyword)
            if value is not None:
                return value
    return None


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "")


def _number(value: Any, default: float = math.nan) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _numbers(value: Any, count: int) -> list[float]:
    try:
        found = [float(part) for part in value]
    except (TypeError, ValueError):
        found = []
    return found if len(found) == count else [math.nan] * count


def _years(age: str) -> float:
    if len(age) == 4 and age[:3].isdigit() and age[3] in _DAYS:  # noqa: PLR2004 - nnnX, PS3.5 6.2
        return round(int(age[:3]) * _DAYS[age[3]] / _DAYS["Y"], 2)
    return math.nan
