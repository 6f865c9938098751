"""One compressed frame to an array, by imagecodecs; sizes are judged before a decoder allocates.

imagecodecs (BSD) covers every transfer syntax of DICOM that compresses frames. Each decoder here is
preceded by a look at the codestream's own header: the frame it will allocate must be the frame that
the DICOM header promised. Sources: PS3.5 2026c 8.2 and annexes A.4, G; T.81 B.2.2 (SOF), T.87 C.2.2,
T.800 A.5.1 (SIZ), 18181-1 D.2 (JPEG XL SizeHeader).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

RLE: Final = "1.2.840.10008.1.2.5"
JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS: Final = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS: Final = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000: Final = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HTJ2K: Final = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
JPEG_XL: Final = ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112")

PICTURES: Final = ("image/png", "image/jpeg", "image/tiff")  # no transfer syntaxes: from image folders


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSpec:
    """What the DICOM header says of one frame."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, samples)."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)


def supported(transfer_syntax: str) -> bool:
    """Whether frames of this transfer syntax can be decoded here."""
    return transfer_syntax in _DECODERS


def decode_frames(transfer_syntax: str, codes: Sequence[bytes], spec: FrameSpec) -> NDArray[Any]:
    """All frames (F, H, W[, samples]) of one integer type; refuses as `decode_frame` does."""
    first = decode_frame(transfer_syntax, codes[0], spec)
    frames = np.empty((len(codes), *first.shape), first.dtype)
    frames[0] = first
    for number in range(1, len(codes)):
        frame = decode_frame(transfer_syntax, codes[number], spec)
        if frame.dtype != first.dtype:
            raise BadInstance(Reason.CORRUPT_PIXELS)
        frames[number] = frame
    return frames


def decode_frame(transfer_syntax: str, code: bytes, spec: FrameSpec) -> NDArray[Any]:
    """One frame, (H, W) or (H, W, samples), integer, colour as RGB or as the header's own YBR.

    Raises `BadInstance` with UNSUPPORTED, TOO_LARGE or CORRUPT_PIXELS; never a partial frame.
    """
    decoder = _DECODERS.get(transfer_syntax)
    if decoder is None:
        raise BadInstance(Reason.UNSUPPORTED)
    try:
        frame: NDArray[Any] = decoder(code, spec)
    except BadInstance:
        raise
    except MemoryError:
        raise BadInstance(Reason.TOO_LARGE) from None
    except Exception:  # noqa: BLE001 - every codec has its own exception; their texts are not needed
        raise BadInstance(Reason.CORRUPT_PIXELS) from None
    frame = frame.reshape(spec.shape) if frame.size == int(np.prod(spec.shape)) else frame
    if frame.shape != spec.shape or frame.dtype.kind not in "iu":
        raise BadInstance(Reason.CORRUPT_PIXELS)
    return frame


def _rle(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    """PS3.5 annex G: one PackBits segment a byte plane, most significant first."""
    import imagecodecs

    width = spec.bits_allocated // 8
    planes = width * spec.samples
    offsets = np.frombuffer(code[:64].ljust(64, b"\0"), "<u4").astype(int)
    if int(offsets[0]) != planes or len(code) < 64:  # noqa: PLR2004 - the RLE header
        raise BadInstance(Reason.CORRUPT_PIXELS)
    bounds = [*offsets[1 : planes + 1].tolist(), len(code)]
    pixels = spec.rows * spec.columns
    out = np.empty((spec.samples, width, pixels), np.uint8)
    for plane in range(planes):
        first, last = bounds[plane], bounds[plane + 1]
        if not 64 <= first < last <= len(code):  # noqa: PLR2004 - behind the RLE header
            raise BadInstance(Reason.CORRUPT_PIXELS)
        raw = imagecodecs.packbits_decode(code[first:last])
        if not pixels <= len(raw) <= pixels + 1:
            raise BadInstance(Reason.CORRUPT_PIXELS)
        out[plane // width, plane % width] = np.frombuffer(raw, np.uint8, pixels)
    values = np.ascontiguousarray(out.transpose(2, 0, 1)).view(f">u{width}")
    return values.reshape(spec.rows, spec.columns, spec.samples).astype(f"=u{width}")


def _jpeg(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    """Baseline, extended and lossless JPEG (T.81); colour is converted as the header tells, not as guessed."""
    import imagecodecs

    start = _jpeg_header(code, spec)
    if start in {0xC3, 0xC7}:
        return np.asarray(imagecodecs.ljpeg_decode(code))
    if not _ends(code, b"\xff\xd9"):
        raise BadInstance(Reason.CORRUPT_PIXELS)
    if spec.samples == 1:
        return np.asarray(imagecodecs.jpeg8_decode(code) if spec.bits_allocated == 8 else _twelve(code))  # noqa: PLR2004
    stored_as = "RGB" if spec.photometric == "RGB" and not _says_ycc(code) else "YCBCR"
    return np.asarray(imagecodecs.jpeg8_decode(code, colorspace=stored_as, outcolorspace="RGB"))


def _twelve(code: bytes) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.jpeg_decode(code))


def _says_ycc(code: bytes) -> bool:
    """Whether an Adobe APP14 marker declares YCbCr (transform 1)."""
    found = code.find(b"\xff\xee")
    return found >= 0 and code[found + 4 : found + 9] == b"Adobe" and code[found + 15 : found + 16] == b"\x01"


def _jpeg_header(code: bytes, spec: FrameSpec) -> int:
    """Find the frame header and compare its size with the promise; gives the SOF marker's code."""
    position = 2
    if code[:2] != b"\xff\xd8":
        raise BadInstance(Reason.CORRUPT_PIXELS)
    while position + 4 <= len(code):
        if code[position] != 0xFF:  # noqa: PLR2004 - a marker
            break
        marker = code[position + 1]
        if marker == 0xFF:  # noqa: PLR2004 - fill byte
            position += 1
            continue
        length = int.from_bytes(code[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC} or marker == 0xF7:  # noqa: PLR2004, RUF021
            rows = int.from_bytes(code[position + 5 : position + 7], "big")
            columns = int.from_bytes(code[position + 7 : position + 9], "big")
            _compare(rows, columns, code[position + 9 : position + 10], spec)
            return marker
        position += 2 + length
    raise BadInstance(Reason.CORRUPT_PIXELS)


def _compare(rows: int, columns: int, samples: bytes, spec: FrameSpec) -> None:
    if rows * columns > 4 * spec.rows * spec.columns:
        raise BadInstance(Reason.TOO_LARGE)
    if (rows, columns) != (spec.rows, spec.columns) or samples != bytes([spec.samples]):
        raise BadInstance(Reason.CORRUPT_PIXELS)


def _ends(code: bytes, marker: bytes) -> bool:
    """Whether a codestream has its end marker, padding aside: a cut stream decodes to a partial frame."""
    return marker in code.rstrip(b"\0")[-64:]


def _jpeg_ls(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    import imagecodecs

    _jpeg_header(code, spec)
    if not _ends(code, b"\xff\xd9"):
        raise BadInstance(Reason.CORRUPT_PIXELS)
    return np.asarray(imagecodecs.jpegls_decode(code))


def _jpeg_2000(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    """JPEG 2000 and HTJ2K; the colour transform of the codestream is undone by the decoder."""
    import imagecodecs

    start = code.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(code) < start + 42:
        raise BadInstance(Reason.CORRUPT_PIXELS)
    size = np.frombuffer(code[start + 8 : start + 24], ">u4").astype(int)
    samples = int.from_bytes(code[start + 40 : start + 42], "big")
    _compare(int(size[1] - size[3]), int(size[0] - size[2]), bytes([min(samples, 255)]), spec)
    if not _ends(code, b"\xff\xd9"):
        raise BadInstance(Reason.CORRUPT_PIXELS)
    return np.asarray(imagecodecs.jpeg2k_decode(code))


def _htj2k(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    return _jpeg_2000(code, spec)


def _jpeg_xl(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    import imagecodecs

    rows, columns = _jpeg_xl_size(code)
    _compare(rows, columns, bytes([spec.samples]), spec)  # the decoder's own shape is compared later
    return np.asarray(imagecodecs.jpegxl_decode(code))


def _jpeg_xl_size(code: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG XL codestream, bare or in boxes (18181-1 D.2 SizeHeader)."""
    start = 2 if code[:2] == b"\xff\x0a" else -1
    for box, skip in ((b"jxlc", 4), (b"jxlp", 8)):
        found = code.find(box, 0, 4096)
        if start < 0 <= found and code[found + skip : found + skip + 2] == b"\xff\x0a":
            start = found + skip + 2
    if start < 0:
        raise BadInstance(Reason.CORRUPT_PIXELS)
    bits = int.from_bytes(code[start : start + 16], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    rows = side()
    ratio = take(3)
    if ratio == 0:
        return rows, side()
    over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * over // under


def _picture(code: bytes, spec: FrameSpec) -> NDArray[Any]:
    """PNG, JPEG or TIFF of an image folder; `spec` is what its own header said."""
    import imagecodecs

    if code.startswith(b"\x89PNG"):
        image = np.asarray(imagecodecs.png_decode(code))
    elif code.startswith(b"\xff\xd8"):
        if not _ends(code, b"\xff\xd9"):
            raise BadInstance(Reason.CORRUPT_PIXELS)
        _jpeg_header(code, spec)
        image = np.asarray(imagecodecs.jpeg8_decode(code))
    else:
        image = np.asarray(imagecodecs.tiff_decode(code))
    return image.astype(np.uint8) if image.dtype == np.bool_ else image


_DECODERS: Final[dict[str, Callable[[bytes, FrameSpec], Any]]] = {
    RLE: _rle,
    JPEG_BASELINE: _jpeg,
    JPEG_EXTENDED: _jpeg,
    **dict.fromkeys(JPEG_LOSSLESS, _jpeg),
    **dict.fromkeys(JPEG_LS, _jpeg_ls),
    **dict.fromkeys(JPEG_2000, _jpeg_2000),
    **dict.fromkeys(HTJ2K, _htj2k),
    **dict.fromkeys(JPEG_XL, _jpeg_xl),
    **dict.fromkeys(PICTURES, _picture),
}
