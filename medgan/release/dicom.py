"""A version as DICOM: a valid instance an image or slice, for PACS and viewers, marked: none is taken for a patient's.

CT and MR where the images have a spacing, Computed Radiography for radiographs, Secondary Capture for the rest
(PS3.3 A.3, A.4, A.2, A.8.1). Pixels are the stored 16-bit values, with their affine where the object has a place for
it. Every UID is derived from the version's digest: exporting twice gives the same bytes.

The marks: SYNTHETIC in Image Type, in Patient's Name, ID and comments, in study, series and image descriptions and the
institution, Patient Identity Removed YES with its method, Manufacturer `medgan`, and no dates but the version's.
Synthetic Data (0008,001C) is left out on purpose: receivers with a dictionary from before 2023 call it an error
(docs/adr/0073).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from medgan.client import export
from medgan.client.load import Dataset as Version
from medgan.errors import InvalidRequest
from medgan.release import dicom_seg

SYNTHETIC = "SYNTHETIC"
MODALITIES = ("CT", "MR", "CR", "OT")
"""Objects that are written: CT, MR, CR, and OT as Secondary Capture."""
_RADIOGRAPHS = frozenset({"CR", "DX", "RG"})
_LEVELS = 1 << 16
_FLAT = 2
_LO_CHARACTERS = 64
_SH_CHARACTERS = 16
_OPEN_BAND_YEARS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an instance stands: image or volume number `series` of its patient, and its slice, both from 1.

    `position_mm`: of the slice along the normal of a volume; `slice_mm`: the distance between slices, where known.
    """

    series: int = 1
    slice: int = 1
    position_mm: float = 0.0
    slice_mm: float | None = None


ALONE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What all instances of a version share. `attrs` are those of its array; `modality` is one of `MODALITIES`."""

    name: str
    version: str
    title: str
    digest: str
    date: str
    modality: str
    attrs: dict[str, Any] = field(default_factory=dict)


def export_dicom(
    version: Version, folder: Path, *, modality: str | None = None, on_progress: export.OnProgress | None = None
) -> Path:
    """Write `images/<row>.dcm` (a volume: `images/<row>/<slice>.dcm`), `labels.csv` and `README.json`; gives `folder`.

    A patient of the labels is a patient and a study here, an image or volume of theirs a series. `modality` (CT, MR,
    CR, OT) replaces what the array says of itself; without a spacing CT and MR become Secondary Capture, because their
    objects must state one. Masks become Segmentation objects, `masks/<row>.dcm`.

    Raises:
        InvalidRequest: the folder holds something else, or a modality that is not written.
    """
    source = source_of(version, modality)
    volumes = export.is_volumes(version)
    of_patient = version.labels.groupby("patient").cumcount() if "patient" in version.labels else None

    def made_of(index: int) -> Iterator[Dataset]:
        labels = {str(name): value for name, value in version.labels.iloc[index].to_dict().items()}
        series = 1 if of_patient is None else int(of_patient.iloc[index]) + 1
        return instances(version[index][0], source, int(version.rows[index]), labels, series=series)

    def write(index: int, path: Path) -> None:
        made = made_of(index)
        if not volumes:
            next(made).save_as(path, enforce_file_format=True)
            return
        path.mkdir()
        for number, one in enumerate(made, start=1):
            one.save_as(path / f"{number:04d}.dcm", enforce_file_format=True)

    def write_mask(index: int, path: Path) -> None:
        named = partial(_uid, source.digest, f"{int(version.rows[index]):07d}")
        made = dicom_seg.segmentation(next(made_of(index)), version.mask(index), version.structures, named)
        _filed(made).save_as(path, enforce_file_format=True)

    with export.begun(version, folder, f"dicom {source.modality}"):
        export.one_by_one(version, folder, "" if volumes else ".dcm", write, on_progress)
        if version.structures and not volumes:
            export.one_by_one(version, folder, ".dcm", write_mask, where="masks")
        export.write_labels(version, folder / "labels.csv")
        export.readme(version, folder)
    return folder


def instances(
    image: npt.NDArray[np.uint16], source: Source, row: int, labels: dict[str, Any], *, series: int = 1
) -> Iterator[Dataset]:
    """The instances of one image (H, W), or of one volume (D, H, W): a series, slices in order along its normal."""
    if image.ndim == _FLAT:
        yield instance(image, source, row, labels, Place(series=series))
        return
    spacing: list[float] = source.attrs.get("spacing_mm") or []
    slice_mm = float(spacing[0]) if len(spacing) == image.ndim else None
    for number, image_HW in enumerate(image):
        at = Place(series=series, slice=number + 1, position_mm=number * (slice_mm or 1.0), slice_mm=slice_mm)
        yield instance(image_HW, source, row, labels, at)


def source_of(version: Version, modality: str | None = None) -> Source:
    """What a version's instances share; `InvalidRequest` for a modality that is not written."""
    if modality is not None and modality not in MODALITIES:
        raise InvalidRequest(f"DICOM is written as {', '.join(MODALITIES)}")
    attrs = version.attrs
    said = modality or str(attrs.get("modality") or ("CT" if attrs.get("units") == "HU" else "OT"))
    kind = "CR" if said in _RADIOGRAPHS else said
    if kind not in MODALITIES or (kind in {"CT", "MR"} and not attrs.get("spacing_mm")):
        kind = "OT"
    manifest = version.manifest
    return Source(
        name=manifest.name,
        version=manifest.version,
        title=manifest.title,
        digest=manifest.digest,
        date=manifest.created[:10].replace("-", ""),
        modality=kind,
        attrs=attrs,
    )


def instance(
    image_HW: npt.NDArray[np.uint16], source: Source, row: int, labels: dict[str, Any], place: Place = ALONE
) -> Dataset:
    """One instance, ready to be written: `image_HW` (H, W) uint16 in stored values; `labels` are the row's."""
    made = Dataset()
    _identify(made, source, row, labels, place)
    _mark(made, source, labels)
    _picture(made, image_HW, source)
    match source.modality:
        case "CT":
            _ct(made, source, place)
        case "MR":
            _mr(made, place)
        case "CR":
            _cr(made, source, str(labels.get("view", "")))
        case _:
            _secondary_capture(made, source)
    return _filed(made)


def _filed(made: Dataset) -> Dataset:
    """With the head of a file (PS3.10 7.1)."""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.ImplementationClassUID = _uid("medgan")
    made.file_meta.ImplementationVersionName = "MEDGAN"
    return made


def _identify(made: Dataset, source: Source, row: int, labels: dict[str, Any], place: Place) -> None:
    """A study a synthetic patient, a series an image or volume; without patients every image is one of its own."""
    image, patient = f"{row:07d}", f"{int(labels.get('patient', row)):07d}"
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName = f"{SYNTHETIC}^{patient}"
    made.PatientID = f"{SYNTHETIC}-{source.name}-{source.version}-{patient}"[:_LO_CHARACTERS]
    made.PatientBirthDate = ""
    made.PatientSex = {"F": "F", "M": "M", "O": "O"}.get(str(labels.get("sex")), "")
    made.PatientAge = _age(str(labels.get("age_band", "")))
    made.StudyInstanceUID = _uid(source.digest, "study", patient)
    made.SeriesInstanceUID = _uid(source.digest, "series", image)
    # the first slice keeps the name it had before there were volumes
    made.SOPInstanceUID = _uid(source.digest, "instance", image, *([str(place.slice)] if place.slice > 1 else []))
    made.StudyDate, made.StudyTime = source.date, "000000"
    made.ContentDate, made.ContentTime = source.date, "000000"
    made.AccessionNumber = ""
    made.ReferringPhysicianName = ""
    made.StudyID = patient[-_SH_CHARACTERS:]
    made.SeriesNumber, made.InstanceNumber = place.series, place.slice
    made.PatientOrientation = made.Laterality = ""


def _mark(made: Dataset, source: Source, labels: dict[str, Any]) -> None:
    """What keeps the instance from being taken for a patient's, wherever a reader looks."""
    made.ImageType = ["DERIVED", "SECONDARY", "OTHER", SYNTHETIC]
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = f"{SYNTHETIC}: drawn by a generative model, shows no person"
    made.PatientComments = f"{SYNTHETIC} patient, does not exist. {_described(labels)}"
    made.StudyDescription = f"{SYNTHETIC} {source.name} {source.version}"[:_LO_CHARACTERS]
    made.SeriesDescription = f"{SYNTHETIC}, not for diagnosis"
    made.ImageComments = f"{SYNTHETIC} image, not for diagnosis. {_described(labels)}"
    made.DerivationDescription = f"{SYNTHETIC}: {source.name}@{source.version}, {source.title}"[:1024]
    made.Manufacturer = "medgan"
    made.ManufacturerModelName = f"{SYNTHETIC} data set"
    made.SoftwareVersions = source.version
    made.DeviceSerialNumber = source.digest[:_LO_CHARACTERS]
    made.InstitutionName = SYNTHETIC


def _picture(made: Dataset, image_HW: npt.NDArray[np.uint16], source: Source) -> None:
    """Pixels as they are stored, and the window that training mapped to [-1, 1]."""
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = image_HW.shape
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    made.PixelRepresentation = 0
    made.LossyImageCompression = "00"
    made.add_new("PixelData", "OW", np.ascontiguousarray(image_HW, dtype="<u2").tobytes())
    low, high = source.attrs.get("intensity_range", (0, _LEVELS - 1))
    slope, intercept = _affine(source)
    made.WindowCenter = _ds(slope * (low + high + 1) / 2 + intercept)
    made.WindowWidth = _ds(max(slope * (high - low), 1e-6) + (1 if slope == 1 else 0))
    spacing = source.attrs.get("spacing_mm")
    if spacing:
        made.PixelSpacing = [_ds(value) for value in spacing[-_FLAT:]]


def _ct(made: Dataset, source: Source, place: Place) -> None:
    """PS3.3 A.3.3: CT Image."""
    made.SOPClassUID, made.Modality = CTImageStorage, "CT"
    made.ImageType = ["DERIVED", "SECONDARY", "AXIAL", SYNTHETIC]
    made.RescaleSlope, made.RescaleIntercept = (_ds(value) for value in _affine(source))
    made.RescaleType = "HU" if source.attrs.get("units") == "HU" else "US"
    made.KVP = made.AcquisitionNumber = None
    _plane(made, place)


def _mr(made: Dataset, place: Place) -> None:
    """PS3.3 A.4.3: MR Image; research mode, because no sequence made it. Signal has no unit, so there is no affine."""
    made.SOPClassUID, made.Modality = MRImageStorage, "MR"
    made.ScanningSequence, made.SequenceVariant = "RM", "NONE"
    made.ScanOptions = made.MRAcquisitionType = ""
    made.RepetitionTime = made.EchoTime = made.EchoTrainLength = None
    _plane(made, place)


def _cr(made: Dataset, source: Source, view: str) -> None:
    """PS3.3 A.2.3: Computed Radiography Image; its view where the labels know one."""
    made.SOPClassUID, made.Modality = ComputedRadiographyImageStorage, "CR"
    made.BodyPartExamined = ""
    made.ViewPosition = view if view.isascii() and view.isupper() and len(view) <= _SH_CHARACTERS else ""
    made.KVP = None
    _modality_lut(made, source)


def _secondary_capture(made: Dataset, source: Source) -> None:
    """PS3.3 A.8.1.3: Secondary Capture Image, made on a workstation."""
    made.SOPClassUID, made.Modality = SecondaryCaptureImageStorage, "OT"
    made.ConversionType = "SYN"  # synthetic image
    made.BurnedInAnnotation = "NO"
    _modality_lut(made, source)


def _modality_lut(made: Dataset, source: Source) -> None:
    """PS3.3 C.11.1: the affine, where the object has no module of its own for it."""
    made.RescaleSlope, made.RescaleIntercept = (_ds(value) for value in _affine(source))
    made.RescaleType = "US"


def _plane(made: Dataset, place: Place) -> None:
    """An axial plane: an image alone at the origin, a slice where it lies in its volume, one frame of reference."""
    made.FrameOfReferenceUID = _uid(made.SeriesInstanceUID, "frame of reference")
    made.PositionReferenceIndicator = ""
    made.ImagePositionPatient = ["0", "0", _ds(place.position_mm)]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.SliceThickness = None if place.slice_mm is None else _ds(place.slice_mm)
    made.PatientPosition = "HFS"


def _affine(source: Source) -> tuple[float, float]:
    """Slope and intercept that are written: physical = stored x slope + intercept; none for MR."""
    if source.modality == "MR":
        return 1.0, 0.0
    return float(source.attrs.get("rescale_slope", 1)), float(source.attrs.get("rescale_intercept", 0))


def _age(band: str) -> str:
    """Age String at the middle of a band, or empty."""
    low, _, high = band.removesuffix("+").partition("-")
    if not re.fullmatch(r"[0-9]{1,3}", low) or not re.fullmatch(r"[0-9]{0,3}", high):
        return ""
    return f"{(int(low) + (int(high) + 1 if high else int(low) + _OPEN_BAND_YEARS)) // 2:03d}Y"


def _described(labels: dict[str, Any]) -> str:
    known = ((name, labels.get(name)) for name in ("class", "sex", "age_band", "site", "view"))
    return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in known if value)


def _ds(value: float) -> str:
    """Decimal String, at most 16 characters."""
    return format_number_as_ds(float(value))


def _uid(*parts: str) -> UID:
    """A UID under 2.25 (PS3.5 B.2) from a digest of `parts`, with the bits of a version 8 UUID (RFC 9562)."""
    value = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16], "big")
    value = value & ~(0xF << 76) | (0x8 << 76)
    return UID(f"2.25.{value & ~(0x3 << 62) | (0x2 << 62)}")
