"""Research archives come as PNG, JPEG, TIFF or NIfTI with a table; they join the same road as DICOM.

A table row names an image file and its patient. The image becomes a Secondary Capture instance in memory
at the moment it is read: its pixels and what the table says, nothing else. EXIF, comments, colour
profiles and file names stay behind; what goes on is de-identified like any other instance.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from medgan.archive import guard, limits, nifti, writer
from medgan.archive.codecs import FrameSpec
from medgan.archive.quiet import quietly
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

FILE_COLUMNS: Final = ("file", "filename", "path", "image", "imagepath", "imagefile", "imageindex")
_MAGICS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
_SAMPLES: Final = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "LA": 2, "RGB": 3, "RGBA": 4}
NIFTI: Final = "nifti"
_MULTI_FRAME: Final = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture
_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_MODALITY: Final = re.compile(r"[A-Z]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the table says of one image; with its digest it decides every byte of the wrapped instance."""

    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    modality: str
    number: int

    @property
    def study(self) -> str:
        """One study a patient: the table knows no visits."""
        return _uid("study", self.issuer, self.patient_id)

    @property
    def series(self) -> str:
        """One series a patient and modality."""
        return _uid("series", self.issuer, self.patient_id, self.modality)

    def instance(self, sha256: str) -> str:
        """The instance is its file's content."""
        return _uid("instance", self.issuer, self.patient_id, sha256)


def media_type(data: bytes) -> str | None:
    """`image/png`, `image/jpeg`, `image/tiff` or `NIFTI` by magic; None for anything else, DICOM first of all."""
    if data[128:132] == b"DICM":
        return None
    if nifti.is_nifti(data):
        return NIFTI
    return next((kind for magic, kind in _MAGICS if data.startswith(magic)), None)


def check(data: bytes, kind: str) -> None:
    """Look at an image's or volume's header and refuse it by its reason, without decoding it."""
    if kind == NIFTI:
        nifti.read_header(data)
    else:
        _look(data, kind)


def _look(data: bytes, kind: str) -> FrameSpec:
    """Shape of a picture, or why it is refused (UNSUPPORTED, TOO_LARGE, CORRUPT_PIXELS)."""
    from PIL import Image

    try:
        with quietly(), Image.open(io.BytesIO(data), formats=[kind.removeprefix("image/").upper()]) as image:
            columns, rows = image.size
            mode, pages = image.mode, getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise BadInstance(Reason.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - a header that is cut or lies; its text may quote it
        raise BadInstance(Reason.CORRUPT_PIXELS) from None
    samples = 3 if mode == "P" and kind == "image/png" else _SAMPLES.get(mode)
    if samples is None or pages != 1:
        raise BadInstance(Reason.UNSUPPORTED)
    bits = 16 if mode.startswith("I;16") else 8
    if rows * columns * samples * bits > 8 * limits.MAX_DECODED_BYTES or max(rows, columns) > 0xFFFF:  # noqa: PLR2004 - US
        raise BadInstance(Reason.TOO_LARGE)
    return FrameSpec(rows=rows, columns=columns, samples=samples, bits_allocated=bits, bits_stored=bits, photometric="")


def wrap(data: bytes, card: Card) -> bytes:
    """The image as a Part 10 Secondary Capture instance, uncompressed; a volume as a multi-frame one."""
    kind = media_type(data)
    if kind is None:
        raise BadInstance(Reason.CHANGED_WHILE_READ)
    pixels = nifti.elements(data) if kind == NIFTI else _pixels(data, kind)
    elements: list[writer.Element] = [
        (0x00080005, "CS", "ISO_IR 192"),
        (0x00080008, "CS", "DERIVED\\SECONDARY"),
        (0x00080016, "UI", _MULTI_FRAME if kind == NIFTI else _SECONDARY_CAPTURE),
        (0x00080018, "UI", card.instance(hashlib.sha256(data).hexdigest())),
        (0x00080060, "CS", card.modality),
        (0x00080064, "CS", "WSD"),
        (0x00100020, "LO", card.patient_id.encode()),
        (0x00100021, "LO", card.issuer.encode()),
        (0x0020000D, "UI", card.study),
        (0x0020000E, "UI", card.series),
        (0x00200013, "IS", str(card.number)),
        *pixels,
    ]
    return writer.part10(sorted(elements, key=lambda one: one[0]))


def _pixels(data: bytes, kind: str) -> list[writer.Element]:
    """The pixel elements of a picture; alpha is dropped, 16 bits stay 16 bits."""
    spec = _look(data, kind)
    image = guard.decode_frames(kind, [data], spec)[0]
    if spec.samples in {2, 4}:
        image = image[..., : spec.samples - 1]
    image = np.ascontiguousarray(image.reshape(spec.rows, spec.columns, -1))
    samples, bits = image.shape[2], 8 * image.itemsize
    colour = [(0x00280006, "US", 0)] if samples > 1 else []
    lossy = [(0x00282110, "CS", "01")] if kind == "image/jpeg" else []
    return [
        *colour,
        *lossy,
        (0x00280002, "US", samples),
        (0x00280004, "CS", "RGB" if colour else "MONOCHROME2"),
        (0x00280010, "US", spec.rows),
        (0x00280011, "US", spec.columns),
        (0x00280100, "US", bits),
        (0x00280101, "US", bits),
        (0x00280102, "US", bits - 1),
        (0x00280103, "US", 0),
        (0x7FE00010, "OW" if bits > 8 else "OB", image.tobytes()),  # noqa: PLR2004 - bits
    ]


def cards(places: Iterable[str], rows: Iterable[Mapping[str, str]]) -> dict[str, Card]:
    """The card of each image file that a table row names; files that none or several rows name have none.

    A row names a file by the end of its path ("train/0001.png", "0001.png"); of several the longest counts.
    """
    by_end: dict[tuple[str, ...], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        named = next((row[column] for column in row if _plain(column) in FILE_COLUMNS and row[column]), "")
        path = PurePosixPath(named.replace("\\", "/"))
        if path.name and row.get("PatientID"):
            by_end[path.parts].append(row)
    numbers: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[str, Card] = {}
    for place in sorted(places):
        best = _best(PurePosixPath(place).parts, by_end)
        if best is not None:
            patient = best["PatientID"], best.get("IssuerOfPatientID", "")
            numbers[patient] += 1
            modality = best.get("Modality", "").upper()
            modality = modality if _MODALITY.fullmatch(modality) else "OT"
            found[place] = Card(patient_id=patient[0], issuer=patient[1], modality=modality, number=numbers[patient])
    return found


def _best(
    place: tuple[str, ...], by_end: Mapping[tuple[str, ...], list[Mapping[str, str]]]
) -> Mapping[str, str] | None:
    """The row of the longest end of a path that is named, unless rows disagree whose it is.

    Each end is looked up, because archives have a hundred thousand files of one name, in as many folders.
    """
    rows = next((by_end[place[at:]] for at in range(len(place)) if place[at:] in by_end), [])
    return rows[0] if len({(row["PatientID"], row.get("IssuerOfPatientID", "")) for row in rows}) == 1 else None


def _plain(column: str) -> str:
    return column.lower().replace("_", "").replace(" ", "").replace("-", "")


def _uid(*parts: Any) -> str:
    digest = hashlib.sha256("\0".join(("medgan/image", *map(str, parts))).encode("utf-8", "surrogatepass")).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
