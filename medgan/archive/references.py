"""What segmentations and structure sets say of other instances: which structures are outlined on which image.

Masks and contours are not images of a patient; that a liver is outlined on an image is a label of that image. The
names are those of the source, less the patient's own: what they may say in the collection is decided there.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from medgan.archive import instance
from medgan.archive.quiet import quietly
from medgan.errors import BadInstance
from medgan.keys import Keyring
from medgan.records import QuarantineReason as Reason

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET: Final = "1.2.840.10008.5.1.4.1.1.481.3"
CLASSES: Final = frozenset((SEGMENTATION, STRUCTURE_SET))
_SIDES: Final = {
    ("SCT", "7771000"): "left", ("SRT", "G-A101"): "left",
    ("SCT", "24028007"): "right", ("SRT", "G-A100"): "right",
}  # fmt: skip
"""Laterality (PS3.16 CID 244)."""
_MOST_FRAMES: Final = 65_535
_MOST_FRACTION: Final = 255
_HALF: Final = 128
_MOST_LETTERS: Final = 256
_WORD: Final = re.compile(r"[^\W\d_]+")


class Mark(NamedTuple):
    """One structure on one image: handles of the patient and the image, the structure's name and code in the source."""

    patient: str
    image: str
    structure: str
    scheme: str
    code: str


_Named = tuple[str, str, str]


def marks(data: bytes, patient: str, keyring: Keyring) -> list[Mark]:
    """What a segmentation or structure set says of images, sorted, each once; nothing for any other instance.

    `BadInstance` where the file is not sound.
    """
    dataset = instance.parse(data)
    try:
        with quietly():
            of = {SEGMENTATION: _segments, STRUCTURE_SET: _contours}.get(str(dataset.SOPClassUID), _nothing)
            theirs = {word.lower() for word in _WORD.findall(str(dataset.get("PatientName", "")))}
            known_as = str(dataset.get("PatientID", "")).strip()
            found = {(uid, named) for uid, named in of(dataset) if uid}
    except Exception:  # noqa: BLE001 - pydicom converts lazily and raises whatever the bytes provoke
        raise BadInstance(Reason.CORRUPT_HEADER) from None
    return sorted(
        Mark(patient, keyring.handle("in", "instance", uid), _without(name, theirs, known_as), scheme, code)
        for uid, (name, scheme, code) in found
    )


class Outline(NamedTuple):
    """What one frame of a segmentation is a mask of: the key of an image and its frame, the structure as named there.

    Where the mask names no one frame of the image, `frame` is -1. Where it names no one image, `image` is the key of
    the one series that the file names, and `frame` the mask's own. Its place tells which it is (`cohort.masks`).
    `inside_from` is the least stored value that is inside: 1 of a binary mask, half of the most of a fractional one.
    """

    image: str
    frame: int
    structure: str
    scheme: str
    code: str
    inside_from: int


def masks(data: bytes, keyring: Keyring) -> list[Outline | None]:
    """What each frame of a segmentation outlines; None where it names neither one image nor one series, or segments.

    `BadInstance` where the file is not sound.
    """
    dataset = instance.parse(data)
    try:
        with quietly():
            theirs = {word.lower() for word in _WORD.findall(str(dataset.get("PatientName", "")))}
            known_as = str(dataset.get("PatientID", "")).strip()
            fractional = str(dataset.get("SegmentationType", "")) == "FRACTIONAL"
            said = functools.cache(lambda text: _without(text, theirs, known_as))
            most = dataset.get("MaximumFractionalValue") if fractional else 1
            half = (most + 1) // 2 if isinstance(most, int) and 0 < most <= _MOST_FRACTION else _HALF
            return [
                found
                and Outline(
                    keyring.handle(*found[0]), found[1], said(found[2][0]), *found[2][1:], half,
                )
                for found in _drawn_on(dataset)
            ]  # fmt: skip
    except Exception:  # noqa: BLE001 - pydicom converts lazily and raises whatever the bytes provoke
        raise BadInstance(Reason.CORRUPT_HEADER) from None


def _drawn_on(dataset: Dataset) -> Iterator[tuple[tuple[str, str, str], int, _Named] | None]:
    """(what `Outline.image` is a handle of, 0-based frame, structure) of every frame of a segmentation that says so.

    PS3.3 C.7.6.16.2.6, of the series C.12.2.
    """
    named = _named_segments(dataset)
    series = {str(one.get("SeriesInstanceUID", "")) for one in dataset.get("ReferencedSeriesSequence") or ()} - {""}
    for number, (sources, segments) in enumerate(_frames(dataset)):
        if len(segments) != 1 or segments[0] not in named:
            yield None
        elif len(sources) == 1:
            uid, of_frame = next(iter(sources))
            yield ("in", "instance", uid), of_frame, named[segments[0]]
        elif len(series) == 1:
            yield ("se", "series", next(iter(series))), number, named[segments[0]]
        else:
            yield None


def _frames(dataset: Dataset) -> Iterator[tuple[frozenset[tuple[str, int]], list[Any]]]:
    """({(source image UID, its 0-based frame)}, segment numbers) of every frame of a segmentation.

    A functional group is that of each frame or the one of all frames, never both (PS3.3 C.7.6.16.1.1), so what all
    frames share is read once.
    """
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    of_all = _sources(shared), _segment_numbers(shared)
    for frame in dataset.get("PerFrameFunctionalGroupsSequence") or ():
        yield _sources([frame]) or of_all[0], _segment_numbers([frame]) or of_all[1]


def _sources(groups: Iterable[Any]) -> frozenset[tuple[str, int]]:
    return frozenset(
        (str(source.get("ReferencedSOPInstanceUID", "")), _first(source.get("ReferencedFrameNumber")) - 1)
        for derived in _items(groups, "DerivationImageSequence")
        for source in derived.get("SourceImageSequence") or ()
    )


def _segment_numbers(groups: Iterable[Any]) -> list[Any]:
    """Of one frame, or of all: there is one (PS3.3 C.8.20.3.2), and a second says that it is none."""
    found = itertools.islice(_items(groups, "SegmentIdentificationSequence"), 2)
    return [one.get("ReferencedSegmentNumber") for one in found]


def _first(numbers: Any) -> int:
    """The one number of ReferencedFrameNumber; 0 where there are several, or none, which means all (PS3.3 10.3).

    It is kept in the table, so one that is no number of a frame, but may be one of a patient, is none.
    """
    if numbers is None:
        return 0
    listed = [numbers] if isinstance(numbers, int | str) else list(numbers)
    first = int(listed[0]) if len(listed) == 1 else 0
    return first if 0 < first <= _MOST_FRAMES else 0


def _contours(dataset: Dataset) -> Iterator[tuple[str, _Named]]:
    """(image UID, structure) of every contour that says on which image it lies (PS3.3 C.8.8.6)."""
    codes = {
        one.get("ReferencedROINumber"): _code(one, "RTROIIdentificationCodeSequence")
        for one in dataset.get("RTROIObservationsSequence") or ()
    }
    named = {
        one.get("ROINumber"): (_short(one.get("ROIName")), *codes.get(one.get("ROINumber"), ("", "")))
        for one in dataset.get("StructureSetROISequence") or ()
    }
    for roi in dataset.get("ROIContourSequence") or ():
        about = named.get(roi.get("ReferencedROINumber"), ("", "", ""))
        for contour in roi.get("ContourSequence") or ():
            for image in contour.get("ContourImageSequence") or ():
                yield str(image.get("ReferencedSOPInstanceUID", "")), about


def _segments(dataset: Dataset) -> Iterator[tuple[str, _Named]]:
    """(image UID, structure) of every frame that says where it is from; of all images where none does (C.8.20)."""
    named = _named_segments(dataset)
    found: dict[_Named, set[frozenset[tuple[str, int]]]] = defaultdict(set)
    for sources, segments in _frames(dataset):
        for segment in segments:
            found[named.get(segment, ("", "", ""))].add(sources)
    images = {about: {uid for sources in of_frames for uid, _ in sources} for about, of_frames in found.items()}
    if not any(images.values()):
        everywhere = {
            str(one.get("ReferencedSOPInstanceUID", ""))
            for one in _items(dataset.get("ReferencedSeriesSequence") or (), "ReferencedInstanceSequence")
        }
        images.update(dict.fromkeys(named.values(), everywhere))
    for about, uids in images.items():
        yield from ((uid, about) for uid in uids)


def _named_segments(dataset: Dataset) -> dict[Any, _Named]:
    """Segment number -> what it is called, behind the side it lies on, and its code."""
    return {
        one.get("SegmentNumber"): (
            f"{_side(one)} {_short(one.get('SegmentLabel'))}".lstrip(),
            *_code(one, "SegmentedPropertyTypeCodeSequence"),
        )
        for one in dataset.get("SegmentSequence") or ()
    }


def _side(segment: Dataset) -> str:
    """`left` or `right` where a modifier of the segment's type says so, else nothing (PS3.3 C.8.20.4.3)."""
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    modifiers = _items(kinds, "SegmentedPropertyTypeModifierCodeSequence")
    said = {(one.get("CodingSchemeDesignator"), one.get("CodeValue")) for one in modifiers}
    sides = {_SIDES[code] for code in said & _SIDES.keys()}
    return sides.pop() if len(sides) == 1 else ""


def _nothing(_: Dataset) -> Iterator[tuple[str, _Named]]:
    return iter(())


def _items(holders: Iterable[Any], keyword: str) -> Iterator[Any]:
    """Items of one sequence in all its holders."""
    for holder in holders:
        yield from holder.get(keyword) or ()


def _code(holder: Any, keyword: str) -> tuple[str, str]:
    """Scheme and value of a coded entry; empty where there is none."""
    for entry in holder.get(keyword) or ():
        return _short(entry.get("CodingSchemeDesignator")), _short(entry.get("CodeValue"))
    return "", ""


def _short(text: Any) -> str:
    """A name as it stands; one that is too long for any is none: it is copied for every image and frame."""
    said = "" if text is None else str(text)
    return said if len(said) <= _MOST_LETTERS else ""


def _without(text: str, words: set[str], known_as: str) -> str:
    if known_as:
        text = re.sub(re.escape(known_as), " ", text, flags=re.IGNORECASE)
    return _WORD.sub(lambda found: "" if found[0].lower() in words else found[0], text)
