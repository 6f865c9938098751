"""Pixel data as a hiding place: bytes beyond the frames, and comments inside compressed ones."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

from medgan.deid.elements import Element

if TYPE_CHECKING:
    from medgan.deid.apply import Work

_ITEM = struct.Struct("<HHL").unpack_from
_BITS_OF_FLOAT = {0x7FE00008: 32, 0x7FE00009: 64}
# ITU-T T.81 Table B.1 and T.87: application and comment segments; T.800 Table A.2: comment.
_JPEG_COMMENT, _JFIF, _ADOBE, _SPIFF = 0xFE, 0xE0, 0xEE, 0xE8
_JPEG_APPLICATION = range(0xE0, 0xF0)
_JPEG_SCAN = 0xDA
# The next marker behind a scan's data: they hold FF only before 00 or a restart (T.81), or a bit of 0 (T.87).
_JPEG_MARKER = re.compile(rb"\xff[\x80-\xcf\xd9-\xfe]")
_J2K_COMMENT, _J2K_TILE = 0x64, 0x90


def native_bytes(work: Work, tag: int) -> int:
    """Length of native pixel data by its description, padded to even; 0 where the description is incomplete."""
    rows, columns = work.number(0x00280010, 0), work.number(0x00280011, 0)
    samples = work.number(0x00280002, 1)
    bits = _BITS_OF_FLOAT.get(tag) or work.number(0x00280100, 0)
    text = work.raw(0x00280008)
    count = int(text) if text.isdigit() else 1
    if work.raw(0x00280004) == b"YBR_FULL_422":
        samples = 2  # PS3.3 C.7.6.3.1.2: two samples a pixel on average
    total = (rows * columns * samples * bits * count + 7) // 8
    return total + total % 2


def blank_comments(buffer: bytes, element: Element) -> bytes:
    """The encapsulated value, without what is no image in it.

    Comment and application segments of JPEG and JPEG 2000 frames and what follows their end are blanked in place; a
    first item that is no table of offsets is emptied.
    """
    value = bytearray(buffer[element.head : element.stop])
    position, stop = element.start - element.head, len(value)
    position, stop = _check_offset_table(value, position, stop)
    codestream = False  # RLE and video hold any bytes, so that no marker can be told in them
    while position + 8 <= stop:
        group, number, length = _ITEM(value, position)
        position += 8
        if (group, number) != (0xFFFE, 0xE000):
            break
        start = bytes(value[position : position + 4])
        if start[:3] == b"\xff\xd8\xff":
            codestream = True
            _blank_jpeg(value, position, position + length)
        elif start == b"\xff\x4f\xff\x51":
            codestream = True
            _blank_j2k(value, position + 2, position + length)
        if codestream:
            _blank_tail(value, position, position + length)
        position += length
    return bytes(value)


def _check_offset_table(value: bytearray, position: int, stop: int) -> tuple[int, int]:
    """Where the first frame begins and the value ends; a first item that is no offset table is emptied."""
    if position + 8 > stop:
        return position, stop
    group, number, length = _ITEM(value, position)
    begin = position + 8
    if (group, number) == (0xFFFE, 0xE000) and length and not _is_offset_table(value[begin : begin + length]):
        del value[begin : begin + length]
        value[position + 4 : begin] = bytes(4)
        return begin, stop - length
    return (begin + length, stop) if (group, number) == (0xFFFE, 0xE000) else (position, stop)


def _is_offset_table(table: bytes | bytearray) -> bool:
    """Whether the first item is a basic offset table (PS3.5 A.4): 0, and then every offset larger than the last."""
    if len(table) % 4:
        return False
    offsets = struct.unpack(f"<{len(table) // 4}L", table)
    return offsets[0] == 0 and all(one < other for one, other in pairwise(offsets))


def _blank_tail(value: bytearray, position: int, stop: int) -> None:
    """Zero what follows the last end-of-image marker (FF D9 in JPEG, JPEG-LS and JPEG 2000) of a fragment."""
    end = value.rfind(b"\xff\xd9", position, stop)
    if end >= 0:
        value[end + 2 : stop] = bytes(stop - end - 2)


def _blank_jpeg(value: bytearray, position: int, stop: int) -> None:
    """Zero what application and comment segments say, before, between and behind the scans; lengths stay."""
    position += 2
    while position + 4 <= stop and value[position] == 0xFF:  # noqa: PLR2004 - every marker begins so
        marker = value[position + 1]
        if marker == _JPEG_SCAN:
            behind = _JPEG_MARKER.search(value, position + 2, stop)
            if behind is None:
                return
            position = behind.start()
            continue
        length = int.from_bytes(value[position + 2 : position + 4], "big")
        body, end = position + 4, min(position + 2 + length, stop)
        known = (marker == _JFIF and value[body : body + 4] == b"JFIF") or (
            marker == _ADOBE and value[body : body + 5] == b"Adobe"
        )
        if marker == _JPEG_COMMENT or (marker in _JPEG_APPLICATION and not known and marker != _SPIFF):
            value[body:end] = bytes(end - body)
        position += 2 + length


def _blank_j2k(value: bytearray, position: int, stop: int) -> None:
    """Zero the text of comment segments of a codestream's main header."""
    while position + 4 <= stop and value[position] == 0xFF:  # noqa: PLR2004 - every marker begins so
        marker = value[position + 1]
        if marker == _J2K_TILE:
            return
        length = int.from_bytes(value[position + 2 : position + 4], "big")
        if marker == _J2K_COMMENT:
            body, end = position + 6, min(position + 2 + length, stop)
            value[body:end] = b" " * (end - body)
        position += 2 + length
