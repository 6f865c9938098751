"""One compressed frame, cleaned in place: an allow list of what a decoder needs, everything else blanked.

Sources: T.81 annex B and T.87 annex C (JPEG, JPEG-LS), T.800 annexes A and I (JPEG 2000 and its boxes), 18181-2
(JPEG XL boxes), PS3.5 annex G (RLE). What cannot be followed from its first byte to its last is refused, because
nobody can say what is in it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from medgan.errors import BadInstance

JPEG, J2K, JXL = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\x0a"
JP2_BOXES, JXL_BOXES = b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x0cJXL \r\n\x87\n"
_CODESTREAM_BOXES = {b"jp2c": 0, b"jxlc": 0, b"jxlp": 4}
"""Boxes that hold image data, and the bytes before it (18181-2: jxlp is numbered)."""

_END_OF_IMAGE, _SCAN = 0xD9, 0xDA
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xDE, 0xF7)) - {0xC4, 0xC8, 0xCC}
_TABLES = frozenset((0xC4, 0xCC, 0xDB))
# Signature of an application segment or id of a preset -> bytes of it that decoders read.
_APPLICATIONS: Final = {
    0xE0: {b"JFIF\0": 14},
    0xE8: {b"SPIFF\0": 30, b"mrfx": 5},
    0xEE: {b"Adobe": 12},
    0xF8: {b"\1": 11, b"\2": 1 << 16, b"\3": 1 << 16, b"\4": 14},
}
_SHORT_SEGMENTS = {0xDC: 2, 0xDD: 4, 0xDF: 1}
# The next marker behind a scan's data: it holds FF only before 00 or a restart (T.81), or a bit of 0 (T.87).
_AFTER_SCAN = re.compile(rb"\xff[\x80-\xcf\xd9-\xfe]")

_J2K_TILE, _J2K_DATA, _J2K_COMMENT = 0x90, 0x93, 0x64
_J2K_NEEDED = frozenset((*range(0x50, 0x54), *range(0x55, 0x5A), *range(0x5C, 0x62), 0x63))
_J2K_PART_2 = range(0x70, 0x7C)  # T.801 table A.1: how components or wavelets are mixed
# Packets hold FF only before 8F and less (T.800 B.10.1, D.4), so that these end a tile-part.
_AFTER_TILE = re.compile(rb"\xff[\x90\xd9]")

# Entropy-coded data ends so once in six million frames; a text that somebody hid there does always.
_TEXT_AT_THE_END = re.compile(rb"[A-Za-z0-9 ^=,.'-]{12}\0*\Z")
_TEXT_WINDOW = 64
_FLAT_PERIODS = range(1, 6)
_RLE_HEADER_BYTES, _RLE_MAX_SEGMENTS = 64, 15
_RLE_NOTHING = 128


def starts(code: bytes | bytearray) -> bool:
    """Whether a codestream that can be cleaned begins here."""
    return code.startswith((JPEG, J2K, JXL, JP2_BOXES, JXL_BOXES))


def clean(code: bytearray) -> None:
    """Blank, in place, what is no image in one JPEG, JPEG-LS, JPEG 2000 or JPEG XL frame; its length stays.

    Raises `BadInstance` CORRUPT_PIXELS where it cannot be followed, or its data ends in a text.
    """
    if code.startswith((JP2_BOXES, JXL_BOXES)):
        _unwrap(code)
    cleaner: Callable[[bytearray], int] = _jpeg if code.startswith(JPEG) else _j2k if code.startswith(J2K) else _jxl
    end = cleaner(code)
    code[end:] = bytes(len(code) - end)


def clean_rle(code: bytearray, pixels: int) -> None:
    """Blank, in place, what is neither header nor run in an RLE frame of `pixels` pixels."""
    if len(code) < _RLE_HEADER_BYTES:
        raise _broken()
    count, *offsets = struct.unpack_from("<16L", code)
    bounds = [*offsets[:count], len(code)]
    rising = all(start < stop for start, stop in pairwise(bounds))
    if not (1 <= count <= _RLE_MAX_SEGMENTS and bounds[0] >= _RLE_HEADER_BYTES and rising):
        raise _broken()
    head = 4 + 4 * count
    code[head : bounds[0]] = bytes(bounds[0] - head)
    for start, stop in pairwise(bounds):
        end = min(_runs_end(code, start, stop, pixels), stop)
        code[end:stop] = bytes([_RLE_NOTHING]) * (stop - end)


def _runs_end(code: bytearray, position: int, stop: int, pixels: int) -> int:
    """Where the runs (PS3.5 G.3.1) that give `pixels` bytes end."""
    while pixels > 0 and position < stop:
        count = code[position]
        if count < _RLE_NOTHING:
            position += count + 2
            pixels -= count + 1
        elif count > _RLE_NOTHING:
            position += 2
            pixels -= 257 - count
        else:
            position += 1
    return position


def _jpeg(code: bytearray) -> int:
    """Blank segments that are none of the image; where the codestream ends."""
    position = 2
    while position < len(code):
        position, marker = _marker(code, position)
        if marker == _END_OF_IMAGE:
            return position
        if marker in _STANDALONE:
            continue
        body, end = _segment(code, position)
        needed = body + _needed(marker, code[body:end])
        code[needed:end] = bytes(max(0, end - needed))
        position = end
        if marker == _SCAN:
            behind = _AFTER_SCAN.search(code, position)
            position = behind.start() if behind is not None else len(code)
            _refuse_text(code, position)
    return position


def _needed(marker: int, body: bytearray) -> int:
    """How many bytes of a segment's body a decoder reads."""
    if marker in _FRAME_HEADERS and len(body) > 5:  # noqa: PLR2004 - up to the number of components
        return 6 + 3 * body[5]
    if marker == _SCAN and body:
        return 4 + 2 * body[0]
    if marker in _TABLES:
        return len(body)
    known = _APPLICATIONS.get(marker, {})
    return next((size for mark, size in known.items() if body.startswith(mark)), _SHORT_SEGMENTS.get(marker, 0))


def _j2k(code: bytearray) -> int:
    """Blank comments and unknown segments of the main header and of every tile-part; where the codestream ends."""
    position = 2
    while position < len(code):
        position, marker = _marker(code, position)
        if marker == _END_OF_IMAGE:
            return position
        if marker == _J2K_DATA:
            behind = _AFTER_TILE.search(code, position)
            position = behind.start() if behind is not None else len(code)
            _refuse_text(code, position)
            continue
        if marker in _J2K_PART_2:
            raise BadInstance("UNSUPPORTED", "JPEG 2000 of part 2 cannot be cleaned")
        body, end = _segment(code, position)
        if marker == _J2K_COMMENT:
            code[body + 2 : end] = b" " * max(0, end - body - 2)
        elif marker not in _J2K_NEEDED and marker != _J2K_TILE:
            code[body:end] = bytes(end - body)
        position = end
    return position


def _jxl(code: bytearray) -> int:
    """A bare JPEG XL codestream has no segments and does not say where it ends."""
    _refuse_text(code, len(code))
    return len(code)


def _marker(code: bytearray, position: int) -> tuple[int, int]:
    """The marker at `position` and where it ends; fill bytes before it are skipped (T.81 B.1.1.2)."""
    begin = position
    while position < len(code) and code[position] == 0xFF:  # noqa: PLR2004 - every marker begins so
        position += 1
    if position == begin or position == len(code):
        raise _broken()
    return position + 1, code[position]


def _segment(code: bytearray, position: int) -> tuple[int, int]:
    """Begin and end of the body of the segment whose length stands at `position`."""
    end = position + int.from_bytes(code[position : position + 2], "big")
    if not position + 2 <= end <= len(code):
        raise _broken()
    return position + 2, end


def _unwrap(code: bytearray) -> None:
    """The codestream that lies in boxes, without them: PS3.5 A.4.4 has none, and they hold XML, Exif and profiles."""
    bare, position = bytearray(), 0
    while position + 8 <= len(code):
        size, kind = int.from_bytes(code[position : position + 4], "big"), bytes(code[position + 4 : position + 8])
        head = 8
        if size == 1:
            size, head = int.from_bytes(code[position + 8 : position + 16], "big"), 16
        stop = len(code) if size == 0 else position + size
        if kind in _CODESTREAM_BOXES:
            bare += code[position + head + _CODESTREAM_BOXES[kind] : stop]
        if not position + head <= stop:
            raise _broken()
        position = stop
    if not bare.startswith((J2K, JXL)):
        raise _broken()
    code[:] = bare.ljust(len(code), b"\0")[: len(code)]


def _refuse_text(code: bytearray, end: int) -> None:
    found = _TEXT_AT_THE_END.search(code[max(0, end - _TEXT_WINDOW) : end])
    if found is not None and not _is_flat(found[0].rstrip(b"\0")):
        raise BadInstance("CORRUPT_PIXELS", "compressed pixel data ends in what reads as a text")


def _is_flat(data: bytes | bytearray) -> bool:
    """Whether a few bytes repeat, as the codes of a flat lower edge do, but for the last, filled up with ones."""
    return any(data[period:-1] == data[: -1 - period] for period in _FLAT_PERIODS)


def _broken() -> BadInstance:
    return BadInstance("CORRUPT_PIXELS", "a compressed frame cannot be followed from its begin to its end")
