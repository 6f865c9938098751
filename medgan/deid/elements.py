"""Raw data elements: a walker over DICOM bytes that converts nothing, and the writer's counterpart.

The header of an instance is read into flat tuples that point into the buffer; values are converted
only by the action that touches them, and kept ones are copied as slices. Limits of `reliability`:
depth 64, 50,000 elements, no length beyond its container, inflation to 512 MiB or 200 times.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from medgan.deid.table import standard_vr
from medgan.errors import BadInstance

MAX_DEPTH = 64
MAX_ELEMENTS = 50_000  # of one data set; enhanced objects have as many in their frames together
MAX_ALL_ELEMENTS = 1_000_000
MAX_INFLATED_BYTES = 512 << 20
MAX_INFLATION_RATIO = 200
UNDEFINED = 0xFFFFFFFF
PREAMBLE_BYTES = 128

ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
DELIMITERS = frozenset((ITEM, ITEM_END, SEQUENCE_END))
SHORT_HEAD_BYTES, LONG_HEAD_BYTES = 8, 12
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
LONG_VRS = frozenset(
    vr.encode() for vr in ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]
)
SHORT_VRS = frozenset(
    vr.encode()
    for vr in [
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    ]
)
_PERHAPS_NESTED = frozenset((b"SQ", b"UN"))
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
# Bytes that form one number, for big-endian input.
WORD_BYTES = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OF", b"OL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"SV", b"UV", b"OV"), 8),
}


class Element(NamedTuple):
    """One data element; `head` .. `stop` are its bytes, `start` .. `stop` its value, offsets into the buffer."""

    tag: int
    vr: bytes
    head: int
    start: int
    stop: int
    items: list[list[Element]] | None
    fragments: bool


class Source(NamedTuple):
    """An instance taken apart: dataset bytes, file meta and elements, and how both are encoded."""

    buffer: bytes
    transfer_syntax: str
    explicit: bool
    big_endian: bool
    meta: list[Element]
    meta_buffer: bytes
    elements: list[Element]


class _Reader:
    """Walks one buffer; counts what it meets against the limits."""

    def __init__(self, buffer: bytes, *, big_endian: bool = False) -> None:
        """Read `buffer` in one byte order."""
        self.buffer = buffer
        order = ">" if big_endian else "<"
        self.short = struct.Struct(order + "HH2sH").unpack_from
        self.long = struct.Struct(order + "L").unpack_from
        self.implicit = struct.Struct(order + "HHL").unpack_from
        self.count = 0

    def walk(
        self, position: int, stop: int, depth: int = 0, *, explicit: bool, until_item_end: bool = False
    ) -> tuple[list[Element], int]:
        """Elements of `position` .. `stop` (or to the item delimiter), and where reading ended."""
        if depth > MAX_DEPTH:
            raise BadInstance("TOO_DEEP", f"sequences are nested deeper than {MAX_DEPTH}")
        found: list[Element] = []
        try:
            ended, position = self._walk(position, stop, depth, found, explicit=explicit)
        except BadInstance:
            if depth or not found or self._tag_at(found[-1].stop, stop) > found[-1].tag:
                raise
            return found, found[-1].stop  # bytes behind the last element; they are not copied
        if ended and until_item_end:
            return found, position
        if until_item_end:
            raise BadInstance("TRUNCATED", "the file ends inside an item")
        if depth and position != stop:
            raise BadInstance("BAD_LENGTH", "an item ends inside an element")
        return found, position

    def _walk(self, position: int, stop: int, depth: int, found: list[Element], *, explicit: bool) -> tuple[bool, int]:
        """Append elements to `found`; whether an item delimiter ended it, and where."""
        read_head = self._explicit_head if explicit else self._implicit_head
        while position + SHORT_HEAD_BYTES <= stop:
            head = position
            tag, vr, length, position = read_head(head, stop)
            if tag in DELIMITERS:
                if tag == ITEM_END:
                    return True, position
                raise BadInstance("CORRUPT_HEADER", "a delimiter stands where an element should")
            self.count += 1
            if len(found) >= MAX_ELEMENTS or self.count > MAX_ALL_ELEMENTS:
                raise BadInstance("TOO_MANY_ELEMENTS", f"more than {MAX_ELEMENTS} elements in a data set, or too many")
            if length == UNDEFINED or vr in _PERHAPS_NESTED:
                element = self._compound(Element(tag, vr, head, position, stop, None, False), length, depth, explicit)
                position = element.stop
                found.append(element)
                continue
            if length > stop - position:
                raise BadInstance("TRUNCATED" if tag in PIXEL_TAGS else "BAD_LENGTH", "a value is longer than the file")
            start, position = position, position + length
            found.append(Element(tag, vr, head, start, position, None, False))
        return False, position

    def _tag_at(self, position: int, stop: int) -> int:
        """What would be the tag at `position`; 0 where there is no room for one."""
        if stop - position < SHORT_HEAD_BYTES:
            return 0
        group, number, _ = self.implicit(self.buffer, position)
        return int(group << 16 | number)

    def _explicit_head(self, position: int, stop: int) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and start of value of the explicit element at `position`."""
        group, number, vr, length = self.short(self.buffer, position)
        if vr in SHORT_VRS:
            return group << 16 | number, vr, length, position + SHORT_HEAD_BYTES
        if vr in LONG_VRS:
            if stop - position < LONG_HEAD_BYTES:
                raise BadInstance("TRUNCATED", "the file ends inside an element's header")
            return group << 16 | number, vr, self.long(self.buffer, position + 8)[0], position + LONG_HEAD_BYTES
        if group == ITEM >> 16:
            return group << 16 | number, b"", self.long(self.buffer, position + 4)[0], position + SHORT_HEAD_BYTES
        raise BadInstance("CORRUPT_HEADER", "an element has an unknown value representation")

    def _implicit_head(self, position: int, stop: int) -> tuple[int, bytes, int, int]:
        """Tag, standard VR, length and start of value of the implicit element at `position`."""
        del stop
        group, number, length = self.implicit(self.buffer, position)
        tag = group << 16 | number
        return tag, standard_vr(tag), length, position + SHORT_HEAD_BYTES

    def _compound(self, element: Element, length: int, depth: int, explicit: bool) -> Element:
        """A sequence, encapsulated pixels, or something unknown that may be either; `element.stop` is the limit."""
        tag, vr, head, start, stop, _, _ = element
        if length == UNDEFINED and tag in PIXEL_TAGS and not depth:
            return Element(tag, vr, head, start, self.fragments(start, stop), None, True)
        nested = explicit and vr != b"UN"  # PS3.5 6.2.2: what is sent as UN is implicit inside
        if length == UNDEFINED:
            items, end = self.items(start, stop, depth, explicit=nested, sized=False)
            return Element(tag, b"SQ", head, start, end, items, False)
        end = start + length
        if end > stop:
            raise BadInstance("BAD_LENGTH", "a value is longer than the file")
        if vr == b"SQ" or standard_vr(tag) == b"SQ":
            items, _ = self.items(start, end, depth, explicit=nested, sized=True)
            return Element(tag, b"SQ", head, start, end, items, False)
        return Element(tag, vr, head, start, end, None, False)

    def items(
        self, position: int, stop: int, depth: int, *, explicit: bool, sized: bool
    ) -> tuple[list[list[Element]], int]:
        """Items of a sequence of known (`sized`) or undefined length, and where it ended."""
        found: list[list[Element]] = []
        while position < stop:
            if stop - position < SHORT_HEAD_BYTES:
                raise BadInstance("BAD_LENGTH", "a sequence ends inside an item's header")
            group, number, length = self.implicit(self.buffer, position)
            tag = group << 16 | number
            position += 8
            if tag == SEQUENCE_END:
                return found, position
            if tag != ITEM:
                raise BadInstance("CORRUPT_HEADER", "a sequence holds something that is no item")
            if length == UNDEFINED:
                item, position = self.walk(position, stop, depth + 1, explicit=explicit, until_item_end=True)
            else:
                if length > stop - position:
                    raise BadInstance("BAD_LENGTH", "an item is longer than its sequence")
                item, _ = self.walk(position, position + length, depth + 1, explicit=explicit)
                position += length
            found.append(item)
        if not sized:
            raise BadInstance("TRUNCATED", "the file ends inside a sequence")
        return found, position

    def fragments(self, position: int, stop: int) -> int:
        """Where encapsulated pixel data that begins at `position` ends."""
        while position + 8 <= stop:
            group, number, length = self.implicit(self.buffer, position)
            tag = group << 16 | number
            position += 8
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM or length > stop - position:
                raise BadInstance("TRUNCATED", "encapsulated pixel data is broken")
            position += length
        raise BadInstance("TRUNCATED", "encapsulated pixel data has no end")


def take_apart(data: bytes) -> Source:
    """Read `data`, a Part 10 file or a bare dataset; `BadInstance` when it is neither or breaks a limit."""
    if len(data) < SHORT_HEAD_BYTES:
        raise BadInstance("NOT_DICOM", "too short to be DICOM")
    meta: list[Element] = []
    position = 0
    if data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM":
        position = PREAMBLE_BYTES + 4
        meta, position = _read_meta(data, position)
    elif data[:2] not in (b"\x02\x00", b"\x08\x00") and data[:4] != b"\x00\x08\x00\x05":
        raise BadInstance("NOT_DICOM", "neither a Part 10 file nor a dataset")
    elif data[:2] == b"\x02\x00":
        meta, position = _read_meta(data, 0)
    syntax = _text(data, meta, 0x00020010) or _guess_syntax(data, position)
    buffer, begin = data, position
    if syntax == DEFLATED:
        buffer, begin = _inflate(data[position:]), 0
    explicit = syntax != IMPLICIT_LITTLE
    if explicit and buffer[begin + 4 : begin + 6] not in SHORT_VRS | LONG_VRS and len(buffer) > begin:
        explicit = False  # said to be explicit and is not: seen in old archives
    elif not explicit and buffer[begin + 4 : begin + 6] in SHORT_VRS | LONG_VRS:
        explicit = True
    big_endian = syntax == EXPLICIT_BIG
    reader = _Reader(buffer, big_endian=big_endian)
    elements, _ = reader.walk(begin, len(buffer), explicit=explicit)
    if not elements:
        raise BadInstance("TRUNCATED", "the dataset is empty")
    return Source(buffer, syntax, explicit, big_endian, meta, data, elements)


def _read_meta(data: bytes, position: int) -> tuple[list[Element], int]:
    """Elements of group 0002 (always explicit little endian) and where the dataset begins."""
    reader = _Reader(data)
    found: list[Element] = []
    while data[position : position + 2] == b"\x02\x00" and len(found) < MAX_ELEMENTS:
        head = position
        if len(data) - position < LONG_HEAD_BYTES:
            raise BadInstance("TRUNCATED", "the file ends inside its meta information")
        group, number, vr, length = reader.short(data, position)
        position += 8
        if vr in LONG_VRS:
            (length,) = reader.long(data, position)
            position += 4
        elif vr not in SHORT_VRS:  # meta information written implicitly
            (length,) = reader.long(data, head + 4)
            vr = standard_vr(group << 16 | number)
        if length > len(data) - position:
            raise BadInstance("BAD_LENGTH", "a value of the meta information is longer than the file")
        found.append(Element(group << 16 | number, vr, head, position, position + length, None, False))
        position += length
    return found, position


def _text(data: bytes, elements: list[Element], tag: int) -> str:
    for element in elements:
        if element.tag == tag:
            return data[element.start : element.stop].rstrip(b"\0 ").decode("ascii", "replace")
    return ""


def _guess_syntax(data: bytes, position: int) -> str:
    """Transfer syntax of a dataset that does not say: by its first element."""
    if data[position + 4 : position + 6] not in SHORT_VRS | LONG_VRS:
        return IMPLICIT_LITTLE
    return EXPLICIT_BIG if data[position : position + 1] == b"\0" else EXPLICIT_LITTLE


def _inflate(data: bytes) -> bytes:
    """Raw deflate with a cap in bytes and in ratio."""
    limit = min(MAX_INFLATED_BYTES, max(MAX_INFLATION_RATIO * len(data), 1 << 20))
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = engine.decompress(data, limit)
    except zlib.error:
        raise BadInstance("TRUNCATED", "the deflated dataset is broken") from None
    if engine.unconsumed_tail:
        raise BadInstance("BOMB", "the deflated dataset unpacks to more than is sane")
    return plain


_MOST_SHORT_BYTES = 0xFFFF
_EXPLICIT_SHORT = struct.Struct("<HH2sH").pack
_EXPLICIT_LONG = struct.Struct("<HH2sHL").pack
_IMPLICIT = struct.Struct("<HHL").pack
_ITEM_HEAD = struct.Struct("<HHL").pack


def element_head(tag: int, vr: bytes, length: int, *, explicit: bool) -> bytes:
    """What stands before a value of `length` bytes, little endian (PS3.5 7.1); too long for its VR it is UN (6.2.2)."""
    if not explicit:
        return _IMPLICIT(tag >> 16, tag & 0xFFFF, length)
    if vr in LONG_VRS or length > _MOST_SHORT_BYTES:
        return _EXPLICIT_LONG(tag >> 16, tag & 0xFFFF, vr if vr in LONG_VRS else b"UN", 0, length)
    return _EXPLICIT_SHORT(tag >> 16, tag & 0xFFFF, vr, length)


def encode(tag: int, vr: bytes, value: bytes, *, explicit: bool) -> bytes:
    """One element, little endian, its value padded to even length (text with space, the rest with 0)."""
    if len(value) & 1:
        value += b"\0" if vr in (b"UI", b"OB", b"UN") else b" "
    return element_head(tag, vr, len(value), explicit=explicit) + value


def copied(buffer: bytes, element: Element, vr: bytes, *, explicit: bool) -> bytes:
    """An element with its value as it stands, under a head of ours.

    The two reserved bytes of a long VR have room for letters, a sequence sent as UN holds implicit elements
    (PS3.5 6.2.2), and some elements are sent under a VR that is not theirs.
    """
    begin = element_head(element.tag, vr, element.stop - element.start, explicit=explicit)
    if element.start - element.head == len(begin) and buffer.startswith(begin, element.head):
        return buffer[element.head : element.stop]  # pixel data is copied once
    return encode(element.tag, vr, buffer[element.start : element.stop], explicit=explicit)


def encode_item(content: bytes) -> bytes:
    """One sequence item of defined length."""
    return _ITEM_HEAD(0xFFFE, 0xE000, len(content)) + content
