"""The shape of one DICOM file, walked byte by byte before any parser is trusted with it.

pydicom reads a truncated file as a shorter one, recurses as deep as a sequence claims, and believes
every length. This walk believes nothing: it visits each element header once, follows sequences to
`MAX_DEPTH`, skips values without copying them, and ends exactly at the last byte or refuses.
It is also the fast way to read a header: top-level elements are kept as offsets.

Sources: PS3.5 2026c 7.1 (element structures), 7.5 (nesting), A.4 (encapsulation), A.5 (deflate); PS3.10 7.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pydicom.datadict import dictionary_VR

from medgan.archive import limits
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"

PIXEL_DATA: Final = 0x7FE00010
UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PREAMBLE: Final = 132

_SHORT_VRS: Final = dict.fromkeys(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(), "")
_LONG_VRS: Final = dict.fromkeys(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split(), "")
for _names in (_SHORT_VRS, _LONG_VRS):
    _names.update({code: code.decode() for code in _names})


class Element(NamedTuple):
    """Where one top-level value lies in `Structure.body`; `length` is `UNDEFINED` where the file says so."""

    vr: str
    start: int
    length: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A walked file. `body` holds the data set from `start` to `end` (inflated where it was deflated)."""

    transfer_syntax: str
    implicit: bool
    meta: Mapping[int, bytes] = field(repr=False)
    body: bytes = field(repr=False)
    start: int
    end: int
    elements: Mapping[int, Element] = field(repr=False)
    fragments: tuple[tuple[int, int], ...] = field(repr=False)
    count: int
    depth: int

    @property
    def little(self) -> bool:
        """Whether integers are little endian."""
        return self.transfer_syntax != EXPLICIT_BIG

    def raw(self, tag: int) -> bytes | None:
        """Value bytes of a top-level element of defined length, or None where there is none."""
        element = self.elements.get(tag)
        if element is None or element.length == UNDEFINED:
            return None
        return self.body[element.start : element.start + element.length]

    def text(self, tag: int) -> str:
        """A short string value without padding, decoded as Latin-1 (an injective map); empty where absent."""
        raw = self.raw(tag)
        return "" if raw is None else raw.decode("latin-1").strip(" \0\t\r\n")

    def unsigned(self, tag: int) -> int | None:
        """The first 16-bit value of a US element, or None where absent or empty."""
        raw = self.raw(tag)
        if raw is None or len(raw) < 2:  # noqa: PLR2004 - two bytes are one US
            return None
        return int.from_bytes(raw[:2], "little" if self.little else "big")


def walk(data: bytes) -> Structure:
    """Walk a Part 10 file or a bare data set to its last byte.

    Raises `BadInstance` with NOT_DICOM, TRUNCATED, BAD_LENGTH, TOO_DEEP, TOO_MANY_ELEMENTS, BOMB,
    TOO_LARGE, UNSUPPORTED or CORRUPT_HEADER.
    """
    if len(data) > limits.MAX_INSTANCE_BYTES:
        raise BadInstance(Reason.TOO_LARGE)
    if data[128:_PREAMBLE] == b"DICM":
        meta, start = read_meta(data, _PREAMBLE)
        return _walk_body(data, start, meta)
    group = data[:2]
    if group == b"\x02\x00":
        meta, start = read_meta(data, 0)
        return _walk_bare(data, start, meta)
    if group in {b"\x08\x00", b"\x00\x08"}:
        return _walk_bare(data, 0, {})
    raise BadInstance(Reason.NOT_DICOM)


def starts_like_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file (132 or more) may begin a Part 10 file or a bare data set."""
    if head[128:_PREAMBLE] == b"DICM":
        return True
    bare = head[:2] in {b"\x02\x00", b"\x08\x00"} or head[:2] == b"\x00\x08"
    return bare and (head[4:6] in _SHORT_VRS or head[4:6] in _LONG_VRS or head[6:8] == b"\0\0")


def _walk_bare(data: bytes, start: int, meta: dict[int, bytes]) -> Structure:
    """Accept a data set without a preamble only where it walks, or fails far from its start."""
    try:
        return _walk_body(data, start, meta)
    except BadInstance as error:
        first_failure_is_deep = error.reason in {Reason.TRUNCATED, Reason.TOO_DEEP} and len(data) - start > 256  # noqa: PLR2004 - a few elements
        if first_failure_is_deep or meta:
            raise
    raise BadInstance(Reason.NOT_DICOM)


def read_meta(data: bytes, position: int = _PREAMBLE) -> tuple[dict[int, bytes], int]:
    """Walk group 0002, always explicit little endian, whatever its group length says."""
    meta: dict[int, bytes] = {}
    size = len(data)
    while data[position : position + 2] == b"\x02\x00":
        if size - position < 8:  # noqa: PLR2004 - the shortest element header
            raise BadInstance(Reason.TRUNCATED)
        tag = 0x00020000 | int.from_bytes(data[position + 2 : position + 4], "little")
        vr = data[position + 4 : position + 6]
        if vr in _SHORT_VRS:
            length, value = int.from_bytes(data[position + 6 : position + 8], "little"), position + 8
        elif vr in _LONG_VRS:
            length, value = int.from_bytes(data[position + 8 : position + 12], "little"), position + 12
        else:
            raise BadInstance(Reason.CORRUPT_HEADER)
        if value + length > size:
            raise BadInstance(_overrun(length))
        if tag in meta:
            raise BadInstance(Reason.CORRUPT_HEADER)
        meta[tag] = data[value : value + length]
        position = value + length
    return meta, position


def _walk_body(data: bytes, start: int, meta: dict[int, bytes]) -> Structure:
    syntax = meta.get(0x00020010, b"").decode("latin-1").strip(" \0")
    if not syntax:
        syntax = _guess_syntax(data, start)
    body = data
    if syntax == DEFLATED_LITTLE:
        body, start = inflate(data[start:]), 0
    if start >= len(body):
        raise BadInstance(Reason.TRUNCATED)
    walker = _Walker(body, little=syntax != EXPLICIT_BIG)
    implicit = _guess_syntax(body, start) == IMPLICIT_LITTLE  # the bytes are right where the label is not
    try:
        end = walker.top(start, implicit=implicit)
    except struct.error:
        raise BadInstance(Reason.TRUNCATED) from None
    return Structure(
        transfer_syntax=syntax,
        implicit=implicit,
        meta=meta,
        body=body,
        start=start,
        end=end,
        elements=walker.elements,
        fragments=tuple(walker.fragments),
        count=walker.count,
        depth=walker.deepest,
    )


def _guess_syntax(data: bytes, start: int) -> str:
    """What an unlabelled data set is written in: its first VR tells explicit from implicit."""
    vr = data[start + 4 : start + 6]
    if vr in _SHORT_VRS or vr in _LONG_VRS:
        return EXPLICIT_BIG if data[start : start + 1] == b"\0" else EXPLICIT_LITTLE
    return IMPLICIT_LITTLE


def inflate(packed: bytes) -> bytes:
    """Raw deflate, capped at 512 MiB and, beyond a floor, at 200 times its size (`BOMB`)."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    cap = max(limits.INFLATE_RATIO_FLOOR_BYTES, limits.MAX_INFLATE_RATIO * len(packed))
    cap = min(cap, limits.MAX_INFLATED_BYTES)
    try:
        body = machine.decompress(packed, cap + 1)
    except zlib.error:
        raise BadInstance(Reason.CORRUPT_HEADER) from None
    if len(body) > cap:
        raise BadInstance(Reason.BOMB)
    if not machine.eof:
        raise BadInstance(Reason.TRUNCATED)
    rest = machine.unused_data
    gzip_trailer = struct.pack("<LL", zlib.crc32(body), len(body))  # some writers leave it there
    if rest.strip(b"\0") and rest[:8] != gzip_trailer:
        raise BadInstance(Reason.CORRUPT_HEADER)
    return body


def _overrun(length: int) -> Reason:
    """Why a value ends after its file: an absurd claim, or a file that was cut."""
    return Reason.BAD_LENGTH if length > limits.MAX_VALUE_BYTES else Reason.TRUNCATED


def _is_sequence(tag: int) -> bool:
    """Whether the dictionary calls a public tag SQ; private ones are opaque."""
    try:
        return bool(dictionary_VR(tag) == "SQ")
    except KeyError:
        return False


class _Walker:
    """One pass over element headers. Positions are absolute; nothing is copied."""

    def __init__(self, body: bytes, *, little: bool) -> None:
        order = "<" if little else ">"
        self.body = body
        self.size = len(body)
        self.tag_of = struct.Struct(order + "HH").unpack_from
        self.head = struct.Struct(order + "HH2sH").unpack_from
        self.word = struct.Struct(order + "L").unpack_from
        self.elements: dict[int, Element] = {}
        self.fragments: list[tuple[int, int]] = []
        self.count = 0
        self.deepest = 0

    def top(self, start: int, *, implicit: bool) -> int:
        """Walk the main data set; gives where it ends (padding, or anything else, after it is cut off)."""
        try:
            return self._dataset(start, self.size, 0, implicit=implicit, delimited=False, keep=self.elements)
        except BadInstance:
            last = next(reversed(self.elements), 0)
            if PIXEL_DATA not in self.elements or not self._is_behind(last):
                raise
            return self.elements[last].end

    def _is_behind(self, last: int) -> bool:
        """Whether what stands after element `last` can be no element of the data set: tags ascend (PS3.5 7.1)."""
        position = self.elements[last].end
        if self.size - position < 8:  # noqa: PLR2004 - the shortest element header
            return False
        group, number = self.tag_of(self.body, position)
        return bool((group << 16 | number) <= last)

    def _dataset(  # noqa: C901 - one screen, one loop: calls in it cost a third of its speed
        self,
        position: int,
        end: int,
        depth: int,
        *,
        implicit: bool,
        delimited: bool,
        keep: dict[int, Element] | None = None,
    ) -> int:
        """Walk elements from `position`; gives the position after the data set."""
        body, head, short_vrs = self.body, self.head, {} if implicit else _SHORT_VRS
        seen: set[int] = set()
        while position < end:
            if end - position < 8:  # noqa: PLR2004 - the shortest element header
                return self._tail(position, end, depth)
            group, number, code, length = head(body, position)
            tag = group << 16 | number
            vr = short_vrs.get(code)
            if vr is not None:  # nine of ten elements: a short value that is skipped
                value = position + 8
                after = value + length
                if after > end:
                    raise BadInstance(Reason.BAD_LENGTH if depth else Reason.TRUNCATED)
            else:
                if tag == _ITEM_END and delimited:
                    self._add(len(seen))
                    return position + 8
                if tag == 0:
                    return self._tail(position, end, depth)
                vr, length, value = self._header(position, tag, implicit=implicit)
                after = self._skip(tag, vr, length, value, end, depth, implicit=implicit)
            if tag in seen:
                raise BadInstance(Reason.CORRUPT_HEADER)
            seen.add(tag)
            if keep is not None:
                keep[tag] = Element(vr, value, length, after)
            position = after
            if len(seen) > limits.MAX_ELEMENTS_PER_DATASET:
                raise BadInstance(Reason.TOO_MANY_ELEMENTS)
        if delimited:
            raise BadInstance(Reason.TRUNCATED if end == self.size else Reason.BAD_LENGTH)
        self._add(len(seen))
        return position

    def _skip(self, tag: int, vr: str, length: int, value: int, end: int, depth: int, *, implicit: bool) -> int:
        """Position after a value that may be long, nested, undefined or absurd."""
        after = value + length
        if length == UNDEFINED:
            return self._undefined(tag, vr, value, end, depth, implicit=implicit)
        if after > end:
            raise BadInstance(Reason.BAD_LENGTH if depth else self._cut(tag, length))
        if vr == "SQ" and length:
            return self._sequence(value, after, depth + 1, implicit=implicit, delimited=False)
        if vr == "UN" and length and not implicit and _is_sequence(tag):  # PS3.5 6.2.2 note 4
            return self._sequence(value, after, depth + 1, implicit=True, delimited=False)
        if length > limits.MAX_VALUE_BYTES and tag != PIXEL_DATA:
            raise BadInstance(Reason.TOO_LARGE)
        return after

    def _add(self, count: int) -> None:
        self.count += count
        if self.count > limits.MAX_ELEMENTS:
            raise BadInstance(Reason.TOO_MANY_ELEMENTS)

    def _tail(self, position: int, end: int, depth: int) -> int:
        """Zeros after the last top-level element are padding; anything else is a cut or broken file."""
        rest = self.body[position:end]
        if depth == 0 and not rest.strip(b"\0"):
            return position
        if end - position < 8:  # noqa: PLR2004 - the shortest element header
            raise BadInstance(Reason.BAD_LENGTH if depth else Reason.TRUNCATED)
        raise BadInstance(Reason.CORRUPT_HEADER)

    def _cut(self, tag: int, length: int) -> Reason:
        """A pixel element that runs over the end is a cut file, however long; others by their claim."""
        if tag == PIXEL_DATA and length <= limits.MAX_DECODED_BYTES:
            return Reason.TRUNCATED
        return _overrun(length)

    def _header(self, position: int, tag: int, *, implicit: bool) -> tuple[str, int, int]:
        """VR, length and value position of the element at `position`."""
        body = self.body
        if implicit:
            return ("SQ" if _is_sequence(tag) else "UN"), self.word(body, position + 4)[0], position + 8
        vr = _LONG_VRS.get(body[position + 4 : position + 6])
        if vr is None or self.size - position < 12:  # noqa: PLR2004 - a long element header
            raise BadInstance(Reason.CORRUPT_HEADER if vr is None else Reason.TRUNCATED)
        return vr, self.word(body, position + 8)[0], position + 12

    def _undefined(self, tag: int, vr: str, value: int, end: int, depth: int, *, implicit: bool) -> int:
        """Position after a value of undefined length: a sequence, or encapsulated pixels."""
        if tag == PIXEL_DATA and depth == 0:
            return self._encapsulated(value, end)
        if tag == PIXEL_DATA:  # an icon's pixels, PS3.3 F.7
            return self._encapsulated(value, end, keep=False)
        if vr == "SQ" or (vr == "UN" and implicit):
            return self._sequence(value, end, depth + 1, implicit=implicit, delimited=True)
        if vr == "UN":  # PS3.5 6.2.2 note 4: the content is implicit little endian
            return self._sequence(value, end, depth + 1, implicit=True, delimited=True)
        raise BadInstance(Reason.BAD_LENGTH)

    def _sequence(self, position: int, end: int, depth: int, *, implicit: bool, delimited: bool) -> int:
        if depth > limits.MAX_DEPTH:
            raise BadInstance(Reason.TOO_DEEP)
        self.deepest = max(self.deepest, depth)
        body = self.body
        while position < end:
            if end - position < 8:  # noqa: PLR2004 - an item header
                break
            group, number = self.tag_of(body, position)
            tag, length = group << 16 | number, self.word(body, position + 4)[0]
            position += 8
            if tag == _SEQUENCE_END and delimited:
                return position
            if tag != _ITEM:
                raise BadInstance(Reason.CORRUPT_HEADER)
            self._add(1)
            if length == UNDEFINED:
                position = self._dataset(position, end, depth, implicit=implicit, delimited=True)
            elif position + length > end:
                raise BadInstance(Reason.BAD_LENGTH if end < self.size else _overrun(length))
            else:
                self._dataset(position, position + length, depth, implicit=implicit, delimited=False)
                position += length
        if delimited or position != end:
            raise BadInstance(Reason.TRUNCATED if end == self.size else Reason.BAD_LENGTH)
        return position

    def _encapsulated(self, position: int, end: int, *, keep: bool = True) -> int:
        """Walk the fragments of encapsulated pixel data; the first item is the offset table."""
        fragments: list[tuple[int, int]] = []
        while end - position >= 8:  # noqa: PLR2004 - an item header
            group, number = self.tag_of(self.body, position)
            tag, length = group << 16 | number, self.word(self.body, position + 4)[0]
            position += 8
            if tag == _SEQUENCE_END:
                if keep:
                    self.fragments = fragments
                return position
            if tag != _ITEM:
                raise BadInstance(Reason.CORRUPT_PIXELS)
            if position + length > end:
                raise BadInstance(Reason.BAD_LENGTH if length == UNDEFINED else Reason.TRUNCATED)
            fragments.append((position, length))
            self._add(1)
            position += length
        raise BadInstance(Reason.TRUNCATED)
