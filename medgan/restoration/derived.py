"""A restored image as DICOM: a derived instance beside its source, and one for its uncertainty, never in its place.

PS3.3 2026c C.7.6.1 (general image: ImageType, derivation), C.12.4 (general reference), C.12.1 (contributing
equipment). UIDs follow from the source's and the model's, so a second run writes the
same instances again instead of more of them.
"""

from __future__ import annotations

import copy
import hashlib
import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from medgan.archive import instance, pixels, structure
from medgan.archive.pixels import Decoded
from medgan.archive.quiet import quietly
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

_IMPLEMENTATION: Final = UID("2.25.302846510843271984019283746501928374650")
_KEEP_GROUPS: Final = frozenset({0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0032, 0x0040, 0x2050})
_DROPPED: Final = frozenset(
    {
        "IconImageSequence", "SmallestImagePixelValue", "LargestImagePixelValue", "PixelDataProviderURL",
        "InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID", "ReferencedImageSequence",
        "SourceImageSequence", "DerivationCodeSequence", "DerivationDescription", "SeriesDescriptionCodeSequence",
        "ModalityLUTSequence", "VOILUTSequence", "PixelPaddingRangeLimit", "SeriesDate", "SeriesTime",
        "LossyImageCompressionRatio", "PlanarConfiguration", "ReferencedPerformedProcedureStepSequence",
        "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "RedPaletteColorLookupTableDescriptor",
        "PresentationLUTSequence", "RealWorldValueMappingSequence", "WindowCenterWidthExplanation", "VOILUTFunction",
    }
)  # fmt: skip
"""What would be untrue of the derived pixels, or names what was not made with them."""
_PROCESS: Final = {
    "super-resolution": codes.DCM.SpatialResampling,
    "denoise": codes.DCM.Smoothing,
    "low-dose": codes.DCM.Smoothing,
    "compression": codes.DCM.Smoothing,
    "inpaint": codes.DCM.VolumeEditing,
}
_WARNING: Final = "Processed by a neural network: compare with the source image; see the uncertainty series."


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A readable single-frame grey image: its data set and pixels, `values` (H, W) float64 in physical units."""

    dataset: Dataset
    decoded: Decoded
    values: NDArray[np.float64]
    steps_88: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """One new instance: its UIDs and its Part 10 bytes."""

    series: str
    instance: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What was done: the task, the degradation's name, how much finer the grid is, and the model's digest."""

    task: str
    degradation: str
    factor: int
    model_sha256: str
    held_out: dict[str, float]


def read(data: bytes) -> Source:
    """Parse and decode one Part 10 file; `BadInstance` with its reason for what cannot be restored."""
    instance.check_image(structure.walk(data))
    dataset = instance.parse(data)
    decoded = pixels.decode(dataset)
    if decoded.photometric == "RGB" or decoded.frames.shape[0] != 1 or "SharedFunctionalGroupsSequence" in dataset:
        raise BadInstance(Reason.UNSUPPORTED, "only single-frame grey images are restored")
    slope, intercept = decoded.rescale_slope, decoded.rescale_intercept
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise BadInstance(Reason.CORRUPT_HEADER)
    values = decoded.frames[0].astype(np.float64) * slope + intercept
    return Source(dataset=dataset, decoded=decoded, values=values, steps_88=_jpeg_steps(dataset))


def padding(source: Source) -> NDArray[np.bool_] | None:
    """(H, W) True where the header's PixelPaddingValue says that nothing was seen; None where it says nothing."""
    with quietly():
        value = source.dataset.get("PixelPaddingValue")
    if value is None:
        return None
    try:
        hole: NDArray[np.bool_] = source.decoded.frames[0] == int(value)
    except (TypeError, ValueError):
        return None
    return hole if hole.any() else None


def derive(
    source: Source, image_HW: NDArray[np.float32], bound_HW: NDArray[np.float32], done: Process
) -> tuple[Derived, Derived]:
    """(restored, uncertainty); arrays in the source's physical units, on the finer grid."""
    with quietly():
        restored = _shell(source, done, "image")
        _fill(restored, source, image_HW)
        uncertainty = _shell(source, done, "uncertainty")
        _fill(uncertainty, source, bound_HW)
        top = float(np.quantile(bound_HW, 0.999)) or 1.0
        uncertainty.WindowCenter, uncertainty.WindowWidth = _ds(top / 2), _ds(max(top, 1.0))
        return _write(restored), _write(uncertainty)


def _shell(source: Source, done: Process, what: str) -> Dataset:
    """The source's patient, study, acquisition and frame of reference; a new series and instance of their own."""
    old = source.dataset
    out = Dataset()
    for element in old:
        private_or_other = element.tag.is_private or element.tag.group not in _KEEP_GROUPS
        if not private_or_other and element.keyword not in _DROPPED:
            out[element.tag] = copy.copy(element)  # setting a value would otherwise change the source's
    kind = [str(value) for value in old.get("ImageType", None) or ()]
    third = kind[2] if len(kind) > 2 and kind[2] else ("AXIAL" if old.get("Modality") == "CT" else "OTHER")  # noqa: PLR2004
    fourth = "RESTORED" if what == "image" else "UNCERTAINTY"
    out.ImageType = ["DERIVED", "SECONDARY", third, fourth]
    out.SOPInstanceUID = _uid(str(old.SOPInstanceUID), done, what)
    out.SeriesInstanceUID = _uid(str(old.SeriesInstanceUID), done, what)
    number = old.get("SeriesNumber")
    out.SeriesNumber = (int(number) if number not in {None, ""} else 0) % 100_000 * 100 + (
        91 if what == "image" else 92
    )
    title = f"{done.task} restored" if what == "image" else f"{done.task} uncertainty"
    out.SeriesDescription = title[:64]
    told = (
        f"medgan {done.task}, model {done.model_sha256[:16]}; held-out PSNR {done.held_out['psnr_db']:.1f} dB "
        f"against {done.held_out['naive_psnr_db']:.1f} dB without it."
    )
    if what == "uncertainty":
        told += " Values bound 95 % of the absolute errors in tissue in 9 of 10 held-out images, in the image's units."
    out.DerivationDescription = told
    out.DerivationCodeSequence = Sequence([_code(_PROCESS[done.degradation])])
    out.SourceImageSequence = Sequence([_reference(old)])
    out.ImageComments = _WARNING
    equipment = Dataset()
    equipment.Manufacturer = "medgan"
    equipment.ManufacturerModelName = done.task
    equipment.SoftwareVersions = done.model_sha256[:64]
    equipment.ContributionDescription = told
    equipment.PurposeOfReferenceCodeSequence = Sequence([_code(codes.DCM.ProcessingEquipment)])
    contributed = [*old.get("ContributingEquipmentSequence", []), equipment]
    out.ContributingEquipmentSequence = Sequence(contributed)
    if source.decoded.lossy:
        out.LossyImageCompression = "01"  # what was lost once stays lost, PS3.3 C.7.6.1.1.5
        ratio = old.get("LossyImageCompressionRatio")
        if ratio is not None:
            out.LossyImageCompressionRatio = ratio
    return out


def _fill(out: Dataset, source: Source, physical_HW: NDArray[np.float32]) -> None:
    """Pixels in the source's stored units, rounded once, within its bits; spacing follows the grid."""
    decoded = source.decoded
    bits = 16 if decoded.bits_stored > 8 else 8  # noqa: PLR2004 - bits
    stored = (physical_HW.astype(np.float64) - decoded.rescale_intercept) / decoded.rescale_slope
    depth = min(decoded.bits_stored, 16)
    low, high = (-(1 << (depth - 1)), (1 << (depth - 1)) - 1) if decoded.signed else (0, (1 << depth) - 1)
    kind = f"<{'i' if decoded.signed else 'u'}{bits // 8}"
    values = np.clip(np.rint(stored), low, high).astype(kind)
    factor = values.shape[0] // source.values.shape[0]
    out.Rows, out.Columns = values.shape
    out.BitsAllocated, out.BitsStored, out.HighBit = bits, depth, depth - 1
    out.PixelRepresentation = int(decoded.signed)
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = decoded.photometric
    if "ModalityLUTSequence" in source.dataset:  # applied on reading: the values are the table's
        out.RescaleSlope, out.RescaleIntercept, out.RescaleType = "1", "0", decoded.units or "US"
    if "PixelPaddingValue" in out:
        del out.PixelPaddingValue
    if factor > 1:
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            spacing = out.get(keyword)
            if spacing is not None and not isinstance(spacing, str) and len(spacing) == 2:  # noqa: PLR2004 - rows, columns
                setattr(out, keyword, [_ds(float(one) / factor) for one in spacing])
    raw = values.tobytes()
    out.add_new("PixelData", "OW" if bits == 16 else "OB", raw + b"\0" * (len(raw) % 2))  # noqa: PLR2004 - bits


def _write(out: Dataset) -> Derived:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = out.SOPClassUID
    meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "MEDGAN"
    out.file_meta = meta
    file = io.BytesIO()
    pydicom.dcmwrite(file, out, enforce_file_format=True)
    return Derived(series=str(out.SeriesInstanceUID), instance=str(out.SOPInstanceUID), data=file.getvalue())


def _reference(old: Dataset) -> Dataset:
    one = Dataset()
    one.ReferencedSOPClassUID = old.SOPClassUID
    one.ReferencedSOPInstanceUID = old.SOPInstanceUID
    one.PurposeOfReferenceCodeSequence = Sequence([_code(codes.DCM.SourceImageForImageProcessingOperation)])
    return one


def _code(code: Any) -> Dataset:
    one = Dataset()
    one.CodeValue, one.CodingSchemeDesignator, one.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return one


def _uid(source: str, done: Process, what: str) -> UID:
    """2.25 and 122 bits of a digest over the source's UID, the model and the purpose (PS3.5 B.2)."""
    text = f"medgan restoration|{source}|{done.task}|{done.model_sha256}|{what}"
    digest = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # a version 8 UUID: digest of our own making (RFC 9562)
    digest[8] = digest[8] & 0x3F | 0x80
    return UID(f"2.25.{int.from_bytes(digest, 'big')}")


def _ds(value: float) -> str:
    return f"{value:.10g}"[:16]


def _jpeg_steps(dataset: Dataset) -> NDArray[np.float64] | None:
    """Quantisation steps of a baseline JPEG image in its grey levels; None for any other."""
    from PIL import Image, UnidentifiedImageError
    from pydicom.encaps import generate_frames
    from pydicom.uid import JPEGBaseline8Bit

    if str(dataset.file_meta.TransferSyntaxUID) != JPEGBaseline8Bit:
        return None
    try:
        code = next(generate_frames(dataset.PixelData, number_of_frames=1))
        with Image.open(io.BytesIO(code)) as picture:
            steps = np.array(picture.quantization[0], np.float64).reshape(8, 8)  # type: ignore[attr-defined]
    except (StopIteration, UnidentifiedImageError, OSError, ValueError, KeyError, AttributeError):
        return None
    return steps
