"""Pixel data as a hiding place: bytes beyond the frames, and whatever lies in, between and behind compressed ones."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medgan.archive import codecs
from medgan.deid import codestreams, screen
from medgan.deid.elements import Element
from medgan.errors import BadInstance

if TYPE_CHECKING:
    from medgan.deid.apply import Work

_OVERLAY_BIT, _ANY_OVERLAY = 0x60000102, 0xFF00FFFF
_WORD_BITS = (8, 16, 32)
_ITEM = struct.Struct("<HHL").unpack_from
_ITEM_TAG, _ITEM_HEAD_BYTES = (0xFFFE, 0xE000), 8
_BITS_OF_FLOAT = {0x7FE00008: 32, 0x7FE00009: 64}
_MAX_COUNT_DIGITS = 12  # of NumberOfFrames, an IS (PS3.5 6.2)


def known_syntax(uid: str) -> bool:
    """Whether `uid` is a transfer syntax of the standard: JPEG XL is younger than pydicom's dictionary."""
    return screen.well_known(uid) or codecs.supported(uid)


def native_bytes(work: Work, tag: int) -> int:
    """Length of native pixel data by its description, padded to even; 0 where the description is incomplete."""
    samples = work.number(0x00280002, 1)
    bits = _BITS_OF_FLOAT.get(tag) or work.number(0x00280100, 0)
    if work.raw(0x00280004) == b"YBR_FULL_422":
        samples = 2  # PS3.3 C.7.6.3.1.2: two samples a pixel on average
    total = (_pixels(work) * samples * bits * _count(work) + 7) // 8
    return total + total % 2


def overlay_in_pixels(work: Work) -> bool:
    """Whether an overlay says that it lies in bits of the pixel data (PS3.3 C.9.2)."""
    return any(tag & _ANY_OVERLAY == _OVERLAY_BIT and work.number(tag, 0) for tag in work.top)


def image_bits(work: Work, pixels: bytes) -> bytes:
    """Native pixels whose bits that store no image are 0."""
    allocated, stored = work.number(0x00280100, 0), work.number(0x00280101, 0)
    high = work.number(0x00280102, stored - 1)
    if allocated not in _WORD_BITS or not 0 < stored <= high + 1 <= allocated:
        raise BadInstance("CORRUPT_PIXELS", "an overlay lies in the pixel data, nobody can say where")
    words = np.frombuffer(pixels, f"<u{allocated // 8}", len(pixels) // (allocated // 8))
    kept = words.dtype.type(((1 << stored) - 1) << (high + 1 - stored))
    cleaned: bytes = (words & kept).tobytes()
    return cleaned.ljust(len(pixels), b"\0")


def clean_fragments(work: Work, element: Element) -> bytes:
    """The encapsulated value with nothing in it but frames: see `codestreams`.

    A first item that is no table of offsets is emptied. Raises `BadInstance` CORRUPT_PIXELS for a frame that cannot
    be followed, UNSUPPORTED for what is no frame of a codec known here: nobody can clean a video.
    """
    value = bytearray(work.buffer[element.head : element.stop])
    if work.explicit:
        value[6:8] = bytes(2)  # reserved (PS3.5 7.1.2)
    if not known_syntax(work.source.transfer_syntax):
        raise BadInstance("UNSUPPORTED", "pixel data is compressed in a way that the standard does not know")
    fragments = _fragments(value, element.start - element.head)
    if not fragments or not _pixels(work):
        raise BadInstance("CORRUPT_PIXELS", "encapsulated pixel data holds no frame, or nothing describes it")
    frames = _frames(value, fragments, rle=work.source.transfer_syntax == codecs.RLE)
    if len(frames) > _count(work):
        raise BadInstance("CORRUPT_PIXELS", "there are more compressed frames than the header says")
    for frame in frames:
        code = bytearray().join(value[start:stop] for start, stop in frame)
        if work.source.transfer_syntax == codecs.RLE:
            codestreams.clean_rle(code, _pixels(work))
        elif codestreams.starts(code):
            codestreams.clean(code)
        elif codecs.supported(work.source.transfer_syntax):
            raise BadInstance("CORRUPT_PIXELS", "a compressed frame does not begin as one")
        else:
            raise BadInstance("UNSUPPORTED", "compressed pixel data of a kind that cannot be cleaned")
        position = 0
        for start, stop in frame:
            value[start:stop] = code[position : position + stop - start]
            position += stop - start
    value[-4:] = bytes(4)  # the length of the end, which is 0 (PS3.5 A.4)
    return bytes(value)


def _count(work: Work) -> int:
    """Number of frames; 1 where it is not said."""
    text = work.raw(0x00280008).removeprefix(b"+")
    return int(text) if text.isdigit() and len(text) <= _MAX_COUNT_DIGITS else 1


def _pixels(work: Work) -> int:
    return work.number(0x00280010, 0) * work.number(0x00280011, 0)


def _fragments(value: bytearray, position: int) -> list[tuple[int, int]]:
    """Where each fragment lies; the table of offsets before them is emptied unless each offset is a fragment's."""
    found: list[tuple[int, int]] = []
    while position + _ITEM_HEAD_BYTES <= len(value):
        group, number, length = _ITEM(value, position)
        position += _ITEM_HEAD_BYTES
        if (group, number) != _ITEM_TAG:
            break
        found.append((position, position + length))
        position += length
    if not found:
        return []
    (begin, end), *fragments = found
    if begin == end or _is_offset_table(value[begin:end], {start - _ITEM_HEAD_BYTES - end for start, _ in fragments}):
        return fragments
    del value[begin:end]
    value[begin - 4 : begin] = bytes(4)
    return [(start - (end - begin), stop - (end - begin)) for start, stop in fragments]


def _is_offset_table(table: bytearray, places: set[int]) -> bool:
    """Whether the first item is a basic offset table (PS3.5 A.4): growing, and each offset a fragment's place."""
    if len(table) % 4:
        return False
    offsets = struct.unpack(f"<{len(table) // 4}L", table)
    return offsets[0] == 0 and all(one < other for one, other in pairwise(offsets)) and places.issuperset(offsets)


def _frames(value: bytearray, fragments: list[tuple[int, int]], *, rle: bool) -> list[list[tuple[int, int]]]:
    """Fragments by frame: one each in RLE (PS3.5 A.4.2), else a frame goes on until another codestream begins."""
    frames: list[list[tuple[int, int]]] = []
    for start, stop in fragments:
        if rle or not frames or codestreams.starts(value[start : min(stop, start + 12)]):
            frames.append([])
        frames[-1].append((start, stop))
    return frames
