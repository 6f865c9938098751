"""Stored pixels to integers that mean something: bits, sign, colour, and how to reach physical units.

PS3.3 2026c C.7.6.3 (image pixel module), C.11.1 (modality LUT), PS3.5 8 (encoding of pixel data).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.dataset import Dataset

from medgan.archive import codecs, guard, limits
from medgan.archive.codecs import FrameSpec
from medgan.archive.quiet import quietly
from medgan.archive.structure import EXPLICIT_BIG
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDTHS: Final = {1: 1, 8: 1, 16: 2, 32: 4}
_COLOUR: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"})
_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Pixels of one instance.

    `frames`: (F, H, W) or (F, H, W, 3), the smallest of uint8, int8, uint16, int16, uint32, int32 that
    holds the stored bits; sign extended, bits above BitsStored cleared, native byte order, C order.
    Physical value = stored x `rescale_slope` + `rescale_intercept`, in `units` (HU, OD, US, ... or
    empty); a modality LUT is already applied. Numbers a header gives wrongly (NaN, 0, 1e308) are
    passed on for validation to refuse. `photometric` is MONOCHROME1, MONOCHROME2 or RGB.
    """

    frames: NDArray[Any]
    photometric: str
    bits_stored: int
    signed: bool
    rescale_slope: float = 1.0
    rescale_intercept: float = 0.0
    units: str = ""
    lossy: bool = False


def decode(dataset: Dataset) -> Decoded:
    """All frames of one instance.

    Raises `BadInstance` with NO_PIXELS, UNSUPPORTED, TOO_LARGE, TRUNCATED, CORRUPT_HEADER or
    CORRUPT_PIXELS; never returns a partial frame.
    """
    with quietly():
        try:
            return _decode(dataset)
        except BadInstance:
            raise
        except MemoryError:
            raise BadInstance(Reason.TOO_LARGE) from None
        except Exception:  # noqa: BLE001 - a header value of the wrong kind; its text may quote the value
            raise BadInstance(Reason.CORRUPT_HEADER) from None


def _decode(dataset: Dataset) -> Decoded:
    if "PixelData" not in dataset:
        floats = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
        raise BadInstance(Reason.UNSUPPORTED if floats else Reason.NO_PIXELS)
    spec, count = _spec(dataset)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    compressed = codecs.supported(syntax)
    if dataset["PixelData"].is_undefined_length and not compressed:
        raise BadInstance(Reason.UNSUPPORTED)
    frames = _compressed(dataset, syntax, spec, count) if compressed else _native(dataset, syntax, spec, count)
    signed = int(dataset.get("PixelRepresentation", 0) or 0) == 1
    frames = _keep_stored_bits(frames, dataset, spec, signed=signed)
    photometric, bits = spec.photometric, spec.bits_stored
    if photometric == "PALETTE COLOR":
        frames, photometric, signed = _apply_palette(dataset, frames), "RGB", False
        bits = 8 * frames.dtype.itemsize
    elif photometric in _COLOUR:
        if photometric.startswith("YBR_FULL") and not (compressed and syntax != codecs.RLE):
            frames = _ybr_to_rgb(frames)
        photometric = "RGB"
    elif photometric not in _GREY or spec.samples != 1:
        raise BadInstance(Reason.UNSUPPORTED)
    return _with_units(dataset, frames, photometric, bits, signed=signed)


def _spec(dataset: Dataset) -> tuple[FrameSpec, int]:
    allocated = int(dataset.BitsAllocated)
    spec = FrameSpec(
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.get("SamplesPerPixel", 1) or 1),
        bits_allocated=allocated,
        bits_stored=int(dataset.get("BitsStored", allocated) or allocated),
        photometric=str(dataset.PhotometricInterpretation).strip(),
    )
    count = max(1, int(dataset.get("NumberOfFrames", 1) or 1))
    if spec.rows < 1 or spec.columns < 1 or not 1 <= spec.bits_stored <= allocated:
        raise BadInstance(Reason.CORRUPT_HEADER)
    if allocated not in _WIDTHS or spec.samples not in {1, 3}:
        raise BadInstance(Reason.UNSUPPORTED)
    decoded_bytes = spec.rows * spec.columns * spec.samples * count * _WIDTHS[allocated]
    if count > limits.MAX_FRAMES or decoded_bytes > limits.MAX_DECODED_BYTES:
        raise BadInstance(Reason.TOO_LARGE)
    return spec, count


def _native(dataset: Dataset, syntax: str, spec: FrameSpec, count: int) -> NDArray[Any]:
    """Uncompressed frames (F, H, W[, 3])."""
    raw = dataset.PixelData
    pixels = count * spec.rows * spec.columns
    if spec.bits_allocated == 1:
        needed = -(-pixels * spec.samples // 8)
        _enough(raw, needed)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8, needed), bitorder="little")[: pixels * spec.samples]
        return bits.reshape(count, *spec.shape)
    width = _WIDTHS[spec.bits_allocated]
    order = ">" if syntax == EXPLICIT_BIG else "<"
    if spec.photometric == "YBR_FULL_422" and spec.samples == 3:  # noqa: PLR2004 - colour
        _enough(raw, 2 * pixels * width)
        return _spread_chroma(np.frombuffer(raw, np.uint8, 2 * pixels), spec, count)
    _enough(raw, pixels * spec.samples * width)
    if order == ">" and width == 1 and dataset["PixelData"].VR == "OW":  # bytes in swapped words, PS3.5 A.3
        raw = np.frombuffer(raw, ">u2").astype("<u2").tobytes()
    values = np.frombuffer(raw, f"{order}u{width}", pixels * spec.samples)
    planar = int(dataset.get("PlanarConfiguration", 0) or 0) == 1
    if spec.samples == 3 and planar:  # noqa: PLR2004 - colour
        return values.reshape(count, 3, spec.rows, spec.columns).transpose(0, 2, 3, 1)
    return values.reshape(count, *spec.shape)


def _enough(raw: bytes, needed: int) -> None:
    if len(raw) < needed:
        raise BadInstance(Reason.TRUNCATED)


def _compressed(dataset: Dataset, syntax: str, spec: FrameSpec, count: int) -> NDArray[Any]:
    """Encapsulated frames (F, H, W[, 3]); their number must be what the header promised."""
    from pydicom.encaps import generate_frames

    extended = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    table = extended if all(extended) else None
    try:
        codes = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=table))
    except Exception:  # noqa: BLE001 - offsets that lead nowhere
        raise BadInstance(Reason.CORRUPT_PIXELS) from None
    if len(codes) != count:
        raise BadInstance(Reason.CORRUPT_PIXELS)
    return guard.decode_frames(syntax, codes, spec)


def _keep_stored_bits(frames: NDArray[Any], dataset: Dataset, spec: FrameSpec, *, signed: bool) -> NDArray[Any]:
    """Shift to HighBit, clear the bits above BitsStored (old overlays live there), extend the sign."""
    stored = spec.bits_stored
    width = 1 if stored <= 8 else 2 if stored <= 16 else 4  # noqa: PLR2004 - bits
    high = int(dataset.get("HighBit", stored - 1) or 0)
    values = frames.astype(f"=u{frames.dtype.itemsize}", copy=False)
    shift = high + 1 - stored
    container_bits = 8 * frames.dtype.itemsize
    if shift > 0 and high < container_bits and not codecs.supported(str(dataset.file_meta.TransferSyntaxUID)):
        values = values >> shift
    if stored < container_bits:
        values = values & np.array((1 << stored) - 1, values.dtype)
    values = values.astype(f"=u{width}", copy=False)
    if not signed:
        return np.ascontiguousarray(values)
    spare = 8 * width - stored
    return np.ascontiguousarray((values << spare).view(f"=i{width}") >> spare)


def _spread_chroma(values: NDArray[np.uint8], spec: FrameSpec, count: int) -> NDArray[np.uint8]:
    """Y Y Cb Cr pairs to full-size YBR (PS3.3 C.7.6.3.1.2)."""
    pairs = values.reshape(count, spec.rows, spec.columns // 2, 4)
    out = np.empty((count, spec.rows, spec.columns, 3), np.uint8)
    out[..., 0] = pairs[..., :2].reshape(count, spec.rows, spec.columns)
    out[..., 1] = np.repeat(pairs[..., 2], 2, axis=-1)
    out[..., 2] = np.repeat(pairs[..., 3], 2, axis=-1)
    return out


def _ybr_to_rgb(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Full-range BT.601, as PS3.3 C.7.6.3.1.2 gives it, rounded to the nearest integer."""
    if frames.dtype != np.uint8:
        raise BadInstance(Reason.UNSUPPORTED)
    out = np.empty(frames.shape, np.uint8)
    for number, frame in enumerate(frames):
        luma, blue, red = (frame[..., channel].astype(np.float32) for channel in range(3))
        blue -= 128
        red -= 128
        mixed = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
        for channel, values in enumerate(mixed):
            out[number, ..., channel] = np.clip(np.rint(values), 0, 255)
    return out


def _apply_palette(dataset: Dataset, frames: NDArray[Any]) -> NDArray[Any]:
    """Index into the three lookup tables: (F, H, W, 3) of uint8 or uint16 (PS3.3 C.7.6.3.1.5-6)."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        from pydicom.pixels.processing import apply_color_lut

        try:
            return np.ascontiguousarray(apply_color_lut(frames, dataset))
        except Exception:  # noqa: BLE001 - a table that is cut or of the wrong kind
            raise BadInstance(Reason.CORRUPT_PIXELS) from None
    if "RedPaletteColorLookupTableData" not in dataset:
        raise BadInstance(Reason.UNSUPPORTED)
    return np.stack([_look_up(dataset, colour, frames) for colour in ("Red", "Green", "Blue")], axis=-1)


def _look_up(dataset: Dataset, colour: str, frames: NDArray[Any]) -> NDArray[Any]:
    entries, first, bits = (int(value) for value in dataset[f"{colour}PaletteColorLookupTableDescriptor"].value)
    entries = entries or 1 << 16
    raw = dataset[f"{colour}PaletteColorLookupTableData"].value
    order = ">" if dataset.file_meta.TransferSyntaxUID == EXPLICIT_BIG else "<"
    kind = f"{order}u2" if len(raw) >= 2 * entries else "u1"  # eight-bit entries may stand alone or in words
    if bits not in {8, 16} or len(raw) < entries * int(kind[-1]):
        raise BadInstance(Reason.CORRUPT_PIXELS)
    table = np.frombuffer(raw, kind, entries).astype("u1" if bits == 8 else "=u2")  # noqa: PLR2004 - bits
    return table[np.clip(frames.astype(np.int64) - first, 0, entries - 1)]


def _with_units(dataset: Dataset, frames: NDArray[Any], photometric: str, bits: int, *, signed: bool) -> Decoded:
    """Attach how stored values become physical ones; a modality LUT is applied at once."""
    lossy = str(dataset.get("LossyImageCompression", "") or "") == "01"
    luts = dataset.get("ModalityLUTSequence")
    if luts and photometric != "RGB":
        from pydicom.pixels.processing import apply_modality_lut

        applied = apply_modality_lut(frames, dataset)
        if applied.dtype.kind not in "iu":
            raise BadInstance(Reason.UNSUPPORTED)
        return Decoded(
            frames=np.ascontiguousarray(applied), photometric=photometric, bits_stored=8 * applied.dtype.itemsize,
            signed=applied.dtype.kind == "i", units=_code(luts[0].get("ModalityLUTType")), lossy=lossy,
        )  # fmt: skip
    slope, intercept, units = rescale(dataset)
    return Decoded(
        frames=frames, photometric=photometric, bits_stored=bits, signed=signed,
        rescale_slope=slope, rescale_intercept=intercept, units=units, lossy=lossy,
    )  # fmt: skip


def rescale(dataset: Dataset) -> tuple[float, float, str]:
    """Slope, intercept and units of the modality transform; of the first frame where it is multi-frame.

    A dose grid has its DoseGridScaling and DoseUnits (PS3.3 C.8.8.3). CT without RescaleType is in Hounsfield units
    (PS3.3 C.8.2.1.1.3); elsewhere the units stay empty.
    """
    if dataset.get("DoseGridScaling") is not None:
        return _number(dataset.DoseGridScaling, 1.0), 0.0, _code(dataset.get("DoseUnits"))
    holder = dataset
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.get(groups)
        if items and items[0].get("PixelValueTransformationSequence"):
            holder = items[0].PixelValueTransformationSequence[0]
            break
    slope, intercept = _number(holder.get("RescaleSlope"), 1.0), _number(holder.get("RescaleIntercept"), 0.0)
    units = _code(holder.get("RescaleType"))
    if not units and holder.get("RescaleSlope") is not None and str(dataset.get("Modality", "")) == "CT":
        units = "HU"
    return slope, intercept, units


def _number(value: Any, default: float) -> float:
    return default if value is None or value == "" else float(value)


def _code(value: Any) -> str:
    """A unit as a short code; anything that is not one is dropped rather than passed on."""
    text = str(value or "").strip()
    return text if text.isascii() and text.replace("_", "").isalnum() and len(text) <= 16 else ""  # noqa: PLR2004 - CS
