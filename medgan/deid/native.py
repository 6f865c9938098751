"""Big-endian datasets, rewritten little endian, because everything after that reads one byte order."""

from __future__ import annotations

from medgan.deid.elements import EXPLICIT_LITTLE, WORD_BYTES, Element, Source, encode, encode_item

_BITS_ALLOCATED, _PIXEL_DATA = 0x00280100, 0x7FE00010


def little_endian(source: Source) -> bytes:
    """A bare explicit little-endian dataset (behind minimal file meta) that says what `source` said."""
    bits = next((e for e in source.elements if e.tag == _BITS_ALLOCATED), None)
    allocated = int.from_bytes(source.buffer[bits.start : bits.stop], "big") if bits is not None else 16
    meta = encode(0x00020010, b"UI", EXPLICIT_LITTLE.encode(), explicit=True)
    return bytes(128) + b"DICM" + meta + _encode(source.buffer, source.elements, allocated)


def _encode(buffer: bytes, elements: list[Element], allocated: int) -> bytes:
    out = []
    for element in elements:
        if element.items is not None:
            value = b"".join(encode_item(_encode(buffer, item, allocated)) for item in element.items)
        else:
            width = WORD_BYTES.get(element.vr, 1)
            if element.tag == _PIXEL_DATA and element.vr == b"OW":
                width = max(2, allocated // 8)  # PS3.5 8.1.1 for 8 and 16 bits; wider pixels are swapped whole
            value = _swap(buffer[element.start : element.stop], width)
        out.append(encode(element.tag, element.vr, value, explicit=True))
    return b"".join(out)


def _swap(value: bytes, width: int) -> bytes:
    if width == 1:
        return value
    value = value[: len(value) - len(value) % width]
    swapped = bytearray(len(value))
    for at in range(width):
        swapped[at::width] = value[width - 1 - at :: width]
    return bytes(swapped)
