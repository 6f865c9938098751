"""No place of a compressed frame holds a text: what a decoder does not read is blanked or the instance is refused."""

from __future__ import annotations

import struct
from functools import cache
from itertools import pairwise

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import generate_fragments

from medgan.archive import pixels
from medgan.deid import apply
from medgan.errors import BadInstance
from tests.unit.deid.builders import phantom_with, read, write

NEEDLE = b"Zuviqoraxe^Jane"
JPEG, JPEG_LS, J2K, RLE = (f"1.2.840.10008.1.2.{last}" for last in ("4.50", "4.80", "4.90", "5"))
JXL, VIDEO = "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.102"
IMAGE = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


def segment(marker: int, body: bytes = NEEDLE) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def box(kind: bytes, body: bytes = NEEDLE) -> bytes:
    return struct.pack(">L", len(body) + 8) + kind + body


@cache
def encoded(kind: str) -> bytes:
    match kind:
        case "jpeg":
            return imagecodecs.jpeg8_encode(IMAGE)
        case "jpegls":
            return imagecodecs.jpegls_encode(IMAGE)
        case "jxl":
            return imagecodecs.jpegxl_encode(IMAGE, lossless=True)
        case _:
            return imagecodecs.jpeg2k_encode(IMAGE, codecformat=kind, level=0, reversible=True)


def jpeg_with(*behind_start: bytes) -> bytes:
    code = encoded("jpeg")
    return code[:2] + b"".join(behind_start) + code[2:]


def tile_part_with(comment: bytes) -> bytes:
    code = bytearray(encoded("j2k"))
    tile, data = code.index(b"\xff\x90"), code.index(b"\xff\x93")
    (length,) = struct.unpack_from(">L", code, tile + 6)
    code[tile + 6 : tile + 10] = struct.pack(">L", length + len(comment))
    return bytes(code[:data] + comment + code[data:])


def rle(*, unused: bytes = b"", gap: bytes = b"", tail: bytes = b"") -> bytes:
    head = struct.pack("<2L", 1, 64 + len(gap)) + unused.ljust(56, b"\0")
    return head + gap + imagecodecs.packbits_encode(IMAGE) + tail


def jxl_boxes() -> bytes:
    code = encoded("jxl")
    signature = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    return signature + box(b"Exif") + box(b"jxlc", code) + box(b"xml ")


def instance(syntax: str, *fragments: bytes, table: bytes = b"", frames: int = 1, rows: int = len(IMAGE)) -> bytes:
    """A phantom whose pixel data is these fragments, behind this table of offsets."""
    dataset = read(phantom_with(NumberOfFrames=frames))
    dataset.Rows, dataset.Columns = rows, IMAGE.shape[1]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    padded = [part + b"\0" * (len(part) % 2) for part in (table, *fragments)]
    dataset.PixelData = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part)) + part for part in padded)
    dataset["PixelData"].is_undefined_length, dataset["PixelData"].VR = True, "OB"
    stand_in = "1.2.840.10008.1.2.4.201"  # pydicom writes no syntax that it does not know
    dataset.file_meta.TransferSyntaxUID = stand_in
    said = stand_in.encode() + b"\0"
    return write(dataset).replace(said, syntax.encode().ljust(len(said), b"\0"), 1)


split = jpeg_with(segment(0xFE, NEEDLE + b" " * 9))
CLEANED = {
    "fill bytes before a comment": (JPEG, jpeg_with(b"\xff\xff" + segment(0xFE))),
    "a comment over two fragments": (JPEG, split[:8], split[8:]),
    "JFIF with a thumbnail": (JPEG, jpeg_with(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\5" + NEEDLE))),
    "Adobe with a tail": (JPEG, jpeg_with(segment(0xEE, b"Adobe\0\0\0\0\0\0\0" + NEEDLE))),
    "SPIFF with a tail": (JPEG, jpeg_with(segment(0xE8, b"SPIFF\0" + bytes(24) + NEEDLE))),
    "a segment of no meaning": (JPEG, jpeg_with(segment(0xE8))),
    "behind the end, with another end": (JPEG, encoded("jpeg") + NEEDLE + b"\xff\xd9"),
    "a fragment behind the frame": (JPEG, encoded("jpeg"), NEEDLE),
    "an offset table of letters": (JPEG, encoded("jpeg")),
    "a comment in JPEG-LS": (JPEG_LS, encoded("jpegls")[:2] + segment(0xFE) + encoded("jpegls")[2:]),
    "a comment in a tile-part": (J2K, tile_part_with(segment(0x64, b"\0\1" + NEEDLE))),
    "boxes around JPEG 2000": (J2K, encoded("jp2")[:12] + box(b"xml ") + encoded("jp2")[12:] + box(b"uuid")),
    "boxes around JPEG XL": (JXL, jxl_boxes()),
    "offsets that RLE does not use": (RLE, rle(unused=NEEDLE)),
    "a gap in RLE": (RLE, rle(gap=NEEDLE + b" ")),
    "behind the runs of RLE": (RLE, rle(tail=NEEDLE)),
}


@pytest.mark.parametrize("place", CLEANED)
def test_no_place_of_a_codestream_holds_a_name_and_the_image_stays(place, basic, keyring):
    syntax, *fragments = CLEANED[place]
    table = b"\0\0\0\0" + NEEDLE[:12] if "table" in place else b""
    clean = apply.deidentify(instance(syntax, *fragments, table=table), profile=basic, keyring=keyring)
    for part in (NEEDLE, NEEDLE[:8], NEEDLE[-8:]):
        assert part not in clean.data
    shown = imagecodecs.jpeg8_decode(encoded("jpeg")) if syntax == JPEG else IMAGE  # JPEG is lossy
    assert (pixels.decode(clean.dataset).frames == shown).all()


REFUSED = {
    "before the frame": (JPEG, NEEDLE, encoded("jpeg")),
    "no frame": (JPEG, NEEDLE * 20),
    "before the end of the scan": (JPEG, encoded("jpeg")[:-2] + NEEDLE + encoded("jpeg")[-2:]),
    "between segments": (JPEG, encoded("jpeg")[:2] + NEEDLE + encoded("jpeg")[2:]),
    "behind JPEG XL": (JXL, encoded("jxl") + NEEDLE),
    "an RLE header that lies": (RLE, struct.pack("<16L", 1, 0xFFFFFFF0, *[0] * 14) + NEEDLE),
    "a second frame of RLE": (RLE, rle(), NEEDLE),
    "a frame that the header does not count": (JPEG, encoded("jpeg"), encoded("jpeg")),
    "a video": (VIDEO, b"\0\0\0\1\x06\x05\x20" + bytes(16) + NEEDLE + b"\x80"),
    "how JPEG 2000 of part 2 mixes components": (J2K, encoded("j2k")[:45] + segment(0x74) + encoded("j2k")[45:]),
    "frames of no codec": ("1.2.840.10008.1.2.1", NEEDLE),
}


@pytest.mark.parametrize("place", REFUSED)
def test_a_frame_that_cannot_be_followed_is_refused(place, basic, keyring):
    syntax, *fragments = REFUSED[place]
    with pytest.raises(BadInstance) as refused:
        apply.deidentify(instance(syntax, *fragments), profile=basic, keyring=keyring)
    assert refused.value.reason in {"CORRUPT_PIXELS", "UNSUPPORTED"}


@pytest.mark.parametrize(("syntax", "code"), [(RLE, rle(tail=NEEDLE)), (JPEG, encoded("jpeg"))])
def test_frames_without_rows_are_refused(syntax, code, basic, keyring):
    with pytest.raises(BadInstance, match="describes"):
        apply.deidentify(instance(syntax, code, rows=0), profile=basic, keyring=keyring)


def test_the_length_of_the_end_says_nothing(basic, keyring):
    data = bytearray(instance(JPEG, encoded("jpeg")))
    end = data.rindex(b"\xfe\xff\xdd\xe0")
    data[end + 4 : end + 8] = NEEDLE[:4]
    clean = apply.deidentify(bytes(data), profile=basic, keyring=keyring).data
    assert clean.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")


def test_a_flat_lower_edge_whose_codes_read_as_letters_is_no_text(basic, keyring):
    flat = np.full((64, 64), 17, np.uint8)
    flat[:16] += np.random.default_rng(0).integers(0, 12, (16, 64)).astype(np.uint8)
    code = imagecodecs.jpeg8_encode(flat, level=95, optimize=True)
    assert code.endswith(b"DDDDDDDDDDDO\xff\xd9")
    clean = apply.deidentify(instance(JPEG, code), profile=basic, keyring=keyring)
    assert (pixels.decode(clean.dataset).frames == imagecodecs.jpeg8_decode(code)).all()


def test_a_true_table_of_offsets_stays(basic, keyring):
    codes = [code + b"\0" * (len(code) % 2) for code in (encoded("jpeg"), jpeg_with(segment(0xFE)))]
    table = struct.pack("<2L", 0, len(codes[0]) + 8)
    clean = apply.deidentify(instance(JPEG, *codes, table=table, frames=2), profile=basic, keyring=keyring)
    assert clean.dataset.PixelData[8:16] == table
    _, first, second = generate_fragments(clean.dataset.PixelData)
    assert first == codes[0]
    assert len(second) == len(codes[1])


def test_whatever_is_damaged_in_a_codestream_ends_as_output_or_with_a_reason(basic, keyring):
    draw = np.random.default_rng(3)
    for syntax, code in ((JPEG, encoded("jpeg")), (J2K, encoded("jp2")), (RLE, rle()), (JXL, jxl_boxes())):
        for first, second in pairwise(draw.integers(0, min(len(code), 120), 20)):
            broken = bytearray(code)
            broken[first], broken[second] = 0xFF, draw.integers(256)
            try:
                clean = apply.deidentify(instance(syntax, bytes(broken)), profile=basic, keyring=keyring)
            except BadInstance:
                continue
            assert clean.data
