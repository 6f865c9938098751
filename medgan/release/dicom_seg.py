"""Masks of an exported version as DICOM Segmentation objects (PS3.3 A.51), one an image: a binary frame a structure.

Names of structures are the version's words; the coded type says no more than that each is an anatomical structure.
Where a mask lies follows from the image it was derived from, which has the same rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.tag import Tag
from pydicom.uid import UID, SegmentationStorage

_SHARED = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "SeriesDescription", "ContentDate",
    "ContentTime", "ImageComments", "DerivationDescription", "Manufacturer", "ManufacturerModelName",
    "SoftwareVersions", "DeviceSerialNumber", "InstitutionName", "PatientOrientation", "Rows", "Columns",
)  # fmt: skip
"""What an object has from its image: whose it is, and every mark that it shows nobody."""
_SERIES_FROM = 1000
_LO_CHARACTERS = 64
_ANATOMY = ("123037004", "SCT", "Anatomical Structure")
_STRUCTURE = ("91723000", "SCT", "Anatomical structure")
_SEGMENTED = ("113076", "DCM", "Segmentation")
_SOURCE = ("121322", "DCM", "Source image for image processing operation")
_SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION = Tag(0x0062000B), Tag(0x0062000A)


def segmentation(
    image: Dataset, mask_HW: npt.NDArray[np.uint8], structures: Sequence[str], named: Callable[[str], UID]
) -> Dataset:
    """The object that outlines `structures` on `image`, an exported instance: frame k holds the mask's value k.

    `mask_HW` is (H, W) uint8 of the image's size; `named` gives the UIDs that are its own.
    """
    made = Dataset()
    for keyword in _SHARED:
        if keyword in image:
            setattr(made, keyword, image[keyword].value)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = SegmentationStorage, named("mask"), "SEG"
    made.SeriesInstanceUID, made.SeriesNumber = named("mask series"), _SERIES_FROM + int(image.SeriesNumber)
    made.InstanceNumber, made.ImageType = 1, ["DERIVED", "PRIMARY"]
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "SYNTHETIC", "SYNTHETIC masks", "medgan"
    made.ReferencedSeriesSequence = [_series(image)]
    made.SegmentSequence = [_segment(number, name) for number, name in enumerate(structures, start=1)]
    _place(made, image, len(structures), named("mask dimensions"))
    _pixels(made, mask_HW, len(structures))
    return made


def _series(image: Dataset) -> Dataset:
    """PS3.3 C.12.2: which instances are referred to, by series."""
    made = Dataset()
    made.SeriesInstanceUID = image.SeriesInstanceUID
    made.ReferencedInstanceSequence = [_reference(image)]
    return made


def _reference(image: Dataset) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return made


def _segment(number: int, name: str) -> Dataset:
    """PS3.3 C.8.20.4: what one structure is called, and that a network drew it."""
    made = Dataset()
    made.SegmentNumber, made.SegmentLabel = number, name.replace("\\", "/")[:_LO_CHARACTERS]
    made.SegmentedPropertyCategoryCodeSequence = [_code(_ANATOMY)]
    made.SegmentedPropertyTypeCodeSequence = [_code(_STRUCTURE)]
    made.SegmentAlgorithmType, made.SegmentAlgorithmName = "AUTOMATIC", "medgan"
    return made


def _place(made: Dataset, image: Dataset, frames: int, dimensions: UID) -> None:
    """PS3.3 C.7.6.16 and C.7.6.17: every frame is derived from the image, and frame k is of structure k."""
    organisation, index, derived, source = Dataset(), Dataset(), Dataset(), _reference(image)
    organisation.DimensionOrganizationUID = index.DimensionOrganizationUID = dimensions
    index.DimensionIndexPointer, index.FunctionalGroupPointer = _SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION
    index.DimensionDescriptionLabel = "Structure"
    made.DimensionOrganizationSequence, made.DimensionIndexSequence = [organisation], [index]
    source.PurposeOfReferenceCodeSequence = [_code(_SOURCE)]
    derived.SourceImageSequence, derived.DerivationCodeSequence = [source], [_code(_SEGMENTED)]
    shared = Dataset()
    shared.DerivationImageSequence = [derived]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [_frame(number) for number in range(1, frames + 1)]


def _frame(number: int) -> Dataset:
    content, segment, made = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues, segment.ReferencedSegmentNumber = [number], number
    made.FrameContentSequence, made.SegmentIdentificationSequence = [content], [segment]
    return made


def _pixels(made: Dataset, mask_HW: npt.NDArray[np.uint8], frames: int) -> None:
    """PS3.5 8.1.1: one bit a pixel, frames without a gap between them."""
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit, made.LossyImageCompression, made.SegmentationType = 0, "00", "BINARY"
    made.NumberOfFrames = frames
    inside_KHW = mask_HW == np.arange(1, frames + 1, dtype=np.uint8)[:, None, None]
    made.add_new("PixelData", "OB", pack_bits(inside_KHW.astype(np.uint8), pad=True))


def _code(code: tuple[str, str, str]) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = code
    return made
