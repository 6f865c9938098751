"""One instance: its bytes from the archive, checked, and parsed only after its structure was walked."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

import pydicom
from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medgan.archive import container, limits, structure
from medgan.archive.quiet import quietly
from medgan.archive.structure import PIXEL_DATA, UNDEFINED, Structure
from medgan.errors import BadInstance
from medgan.keys import Keyring
from medgan.records import QuarantineReason as Reason
from medgan.settings import Zones

if TYPE_CHECKING:
    from medgan.archive.intake import Locator

SOP_CLASS: Final = 0x00080016
SOP_INSTANCE: Final = 0x00080018
STUDY: Final = 0x0020000D
SERIES: Final = 0x0020000E
PATIENT_ID: Final = 0x00100020
ISSUER_OF_PATIENT_ID: Final = 0x00100021

_UID: Final = re.compile(r"[0-9.]{1,64}")
_TYPE_1_UIDS: Final = (SOP_CLASS, SOP_INSTANCE, STUDY, SERIES)
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
_SAMPLES: Final = 0x00280002
_FRAMES: Final = 0x00280008
_BITS_ALLOCATED: Final = 0x00280100
_PHOTOMETRIC: Final = 0x00280004
_FLOAT_PIXELS: Final = (0x7FE00008, 0x7FE00009)
_EMPTY_PREAMBLE: Final = bytes(128)
_ENCAPSULATED: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.(4\.\d+|5)")


def read(locator: Locator, *, zones: Zones, keyring: Keyring) -> bytes:
    """Part 10 bytes of one instance, at most 1 GiB, re-hashed against the scan (CHANGED_WHILE_READ).

    An image of an image folder comes wrapped as an instance.
    """
    from medgan.archive import images, intake

    extent, card = intake.resolve(locator, zones=zones, keyring=keyring)
    data = container.read_extent(extent, expected_sha256=locator.sha256)
    return data if card is None else images.wrap(data, images.Card(**card))


def parse(data: bytes) -> Dataset:
    """A pydicom data set with file meta, after its structure, UIDs and sizes were checked.

    Takes a Part 10 file or a bare data set. The preamble comes back zeroed: it may hold a program.
    Raises `BadInstance` with a `QuarantineReason`; its message holds no value of the file.
    """
    shape = structure.walk(data)
    check(shape)
    return _parse(data, shape)


def check(shape: Structure) -> None:
    """Refuse what no parser should see: broken UIDs, pixels that are cut or larger than the cap."""
    if shape.meta.get(0x00020002, b"").rstrip(b"\0 ").decode("latin-1") == structure.MEDIA_DIRECTORY:
        raise BadInstance(Reason.UNSUPPORTED)
    if not _UID.fullmatch(shape.transfer_syntax):
        raise BadInstance(Reason.CORRUPT_HEADER)
    last = max(shape.elements, default=0)
    for tag in _TYPE_1_UIDS:
        text = shape.text(tag)
        if not text and last < tag:
            raise BadInstance(Reason.TRUNCATED)
        if not _UID.fullmatch(text):
            raise BadInstance(Reason.BAD_UID)
    if PIXEL_DATA in shape.elements:
        _check_pixels(shape)


def check_image(shape: Structure) -> None:
    """Refuse what is sound DICOM and yet no image of a known patient: NO_PIXELS, NO_PATIENT, UNSUPPORTED."""
    if PIXEL_DATA not in shape.elements:
        if any(tag in shape.elements for tag in _FLOAT_PIXELS):
            raise BadInstance(Reason.UNSUPPORTED)
        promised = all(tag in shape.elements for tag in (_ROWS, _COLUMNS, _BITS_ALLOCATED, _PHOTOMETRIC))
        raise BadInstance(Reason.TRUNCATED if promised else Reason.NO_PIXELS)
    if not shape.text(PATIENT_ID):
        raise BadInstance(Reason.NO_PATIENT)


def expected_bits(shape: Structure) -> int:
    """Bits that the pixels take when decoded, from the header; refuses sizes beyond the cap (TOO_LARGE)."""
    numbers = [shape.unsigned(tag) for tag in (_ROWS, _COLUMNS, _BITS_ALLOCATED)]
    frames = number_of_frames(shape.text(_FRAMES))
    rows, columns, allocated = (number or 0 for number in numbers)
    if not rows or not columns or not allocated:
        raise BadInstance(Reason.CORRUPT_HEADER)
    bits = rows * columns * (shape.unsigned(_SAMPLES) or 1) * frames * allocated
    if frames > limits.MAX_FRAMES or bits > 8 * limits.MAX_DECODED_BYTES:
        raise BadInstance(Reason.TOO_LARGE)
    return bits


def number_of_frames(text: str) -> int:
    """NumberOfFrames as an integer of at least 1; 1 where empty."""
    if not text:
        return 1
    if not re.fullmatch(r"\+?\d{1,12}", text):
        raise BadInstance(Reason.CORRUPT_HEADER)
    return max(1, int(text))


def _check_pixels(shape: Structure) -> None:
    element = shape.elements[PIXEL_DATA]
    bits = expected_bits(shape)
    if element.length == UNDEFINED:
        if not _ENCAPSULATED.fullmatch(shape.transfer_syntax):
            raise BadInstance(Reason.CORRUPT_HEADER)
        if len(shape.fragments) < 2:  # noqa: PLR2004 - the offset table and one fragment
            raise BadInstance(Reason.CORRUPT_PIXELS)
        return
    if _ENCAPSULATED.fullmatch(shape.transfer_syntax):
        raise BadInstance(Reason.CORRUPT_PIXELS)
    halved = shape.text(_PHOTOMETRIC) == "YBR_FULL_422"  # PS3.3 C.7.6.3.1.2: two of three samples are stored
    needed = -(-(bits * 2 // 3 if halved else bits) // 8)
    if element.length < needed:
        raise BadInstance(Reason.TRUNCATED)


def _parse(data: bytes, shape: Structure) -> Dataset:
    if shape.body is data and shape.end < len(data):
        data = data[: shape.end]
    try:
        with quietly():
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            if not hasattr(dataset, "file_meta"):
                dataset.file_meta = pydicom.dataset.FileMetaDataset()
    except RecursionError:
        raise BadInstance(Reason.TOO_DEEP) from None
    except MemoryError:
        raise BadInstance(Reason.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - whatever a parser raises on hostile bytes, its text may quote them
        raise BadInstance(Reason.CORRUPT_HEADER) from None
    if len(dataset) == 0:
        raise BadInstance(Reason.CORRUPT_HEADER)
    dataset.file_meta.TransferSyntaxUID = UID(shape.transfer_syntax, validation_mode=IGNORE)
    dataset.preamble = _EMPTY_PREAMBLE
    return dataset
