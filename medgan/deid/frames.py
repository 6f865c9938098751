"""Pixel data as a hiding place: bytes beyond the frames, and comments inside compressed ones."""

from __future__ import annotations

import struct
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
    """The encapsulated value with comment and application segments of JPEG and JPEG 2000 frames blanked in place."""
    value = bytearray(buffer[element.head : element.stop])
    position, stop = element.start - element.head, len(value)
    while position + 8 <= stop:
        group, number, length = _ITEM(value, position)
        position += 8
        if (group, number) != (0xFFFE, 0xE000):
            break
        start = bytes(value[position : position + 4])
        if start[:3] == b"\xff\xd8\xff":
            _blank_jpeg(value, position, position + length)
        elif start == b"\xff\x4f\xff\x51":
            _blank_j2k(value, position + 2, position + length)
        position += length
    return bytes(value)


def _blank_jpeg(value: bytearray, position: int, stop: int) -> None:
    """Zero what application and comment segments say, up to the first scan; lengths stay."""
    position += 2
    while position + 4 <= stop and value[position] == 0xFF:  # noqa: PLR2004 - every marker begins so
        marker = value[position + 1]
        if marker == _JPEG_SCAN:
            return
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
