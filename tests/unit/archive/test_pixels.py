"""Decoded pixels are those of the file: bit by bit beside other decoders, and beside the uncompressed original."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import openjpeg
import pydicom
import pytest
from pydicom.pixels import get_decoder

from medgan.archive import codecs, instance, phantom, pixels
from medgan.archive.quiet import quietly
from medgan.errors import BadInstance
from tests.unit.archive.builders import encapsulated, rebuilt

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
DATA_STORE = pytest.importorskip("data_store")
MORE = Path(DATA_STORE.__file__).parent / "data"


def _parsed(name: str) -> pydicom.Dataset:
    path = SHIPPED / name if (SHIPPED / name).exists() else MORE / name
    return instance.parse(path.read_bytes())


def _frames(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == like.ndim - 1 else array


BESIDE_OTHERS = [
    ("693_J2KI.dcm", "gdcm"),
    ("693_J2KR.dcm", "gdcm"),
    ("GDCMJ2K_TextGBR.dcm", "gdcm"),
    ("J2K_pixelrep_mismatch.dcm", "gdcm"),
    ("JPEG-LL.dcm", "gdcm"),
    ("JPEG2000.dcm", "gdcm"),
    ("JPGLosslessP14SV1_1s_1f_8b.dcm", "gdcm"),
    ("MR_small_RLE.dcm", "pydicom"),
    ("MR_small_jp2klossless.dcm", "gdcm"),
    ("MR_small_jpeg_ls_lossless.dcm", "gdcm"),
    ("SC_jpeg_no_color_transform.dcm", "gdcm"),
    ("SC_jpeg_no_color_transform_2.dcm", "pillow"),
    ("SC_rgb_dcmtk_+eb+cr.dcm", "gdcm"),
    ("SC_rgb_dcmtk_+eb+cy+n1.dcm", "pillow"),
    ("SC_rgb_dcmtk_+eb+cy+n2.dcm", "gdcm"),
    ("SC_rgb_dcmtk_+eb+cy+np.dcm", "gdcm"),
    ("SC_rgb_dcmtk_+eb+cy+s2.dcm", "pillow"),
    ("SC_rgb_dcmtk_+eb+cy+s4.dcm", "gdcm"),
    ("SC_rgb_gdcm_KY.dcm", "gdcm"),
    ("SC_rgb_jpeg.dcm", "gdcm"),
    ("SC_rgb_jpeg_app14_dcmd.dcm", "pillow"),
    ("SC_rgb_jpeg_gdcm.dcm", "gdcm"),
    ("SC_rgb_jpeg_lossy_gdcm.dcm", "gdcm"),
    ("SC_rgb_rle_16bit_2frame.dcm", "pydicom"),
    ("SC_rgb_rle_32bit_2frame.dcm", "pydicom"),
    ("SC_rgb_small_odd_jpeg.dcm", "pillow"),
    ("emri_small_RLE.dcm", "pydicom"),
    ("emri_small_jpeg_2k_lossless.dcm", "pillow"),
    ("emri_small_jpeg_ls_lossless.dcm", "gdcm"),
    ("examples_jpeg2k.dcm", "gdcm"),
    ("examples_ybr_color.dcm", "pillow"),
    ("explicit_VR-UN.dcm", "gdcm"),
    ("rtdose_rle.dcm", "pydicom"),
]


@pytest.mark.parametrize(("name", "plugin"), BESIDE_OTHERS)
def test_frames_are_bit_equal_to_another_decoder(name: str, plugin: str) -> None:
    dataset = _parsed(name)
    decoded = pixels.decode(dataset)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    with quietly():
        other = decoder.as_array(dataset, decoding_plugin=plugin, raw=False)[0]
    np.testing.assert_array_equal(decoded.frames, _frames(other, decoded.frames))


NATIVE = [
    "693_UNCR.dcm",
    "CT_small.dcm",
    "ExplVR_BigEnd.dcm",
    "JPEG2000_UNC.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_padded.dcm",
    "SC_rgb_expb_16bit_2frame.dcm",
    "SC_rgb_expb_32bit.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "SC_ybr_full_uncompressed.dcm",
    "color-pl.dcm",
    "color-px.dcm",
    "eCT_Supplemental.dcm",
    "emri_small_big_endian.dcm",
    "examples_overlay.dcm",
    "image_dfl.dcm",
    "liver.dcm",
    "liver_expb.dcm",
    "rtdose_expb.dcm",
]


@pytest.mark.parametrize("name", NATIVE)
def test_uncompressed_frames_are_bit_equal_to_pydicoms(name: str) -> None:
    dataset = _parsed(name)
    decoded = pixels.decode(dataset)
    with quietly():
        other = pydicom.pixels.pixel_array(dataset, raw=False)
    np.testing.assert_array_equal(decoded.frames, _frames(other, decoded.frames))


@pytest.mark.parametrize(
    ("original", "packed"),
    [
        ("MR_small.dcm", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]),
        ("MR_small.dcm", ["MR_small_expb.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]),
        ("emri_small.dcm", ["emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "emri_small_big_endian.dcm"]),
        ("693_UNCR.dcm", ["693_J2KR.dcm"]),
        ("rtdose.dcm", ["rtdose_rle.dcm", "rtdose_expb.dcm"]),
        ("OBXXXX1A.dcm", ["OBXXXX1A_rle.dcm", "OBXXXX1A_expb.dcm"]),
        ("gdcm-US-ALOKA-16.dcm", ["gdcm-US-ALOKA-16_big.dcm"]),
        ("US1_UNCR.dcm", ["US1_J2KR.dcm"]),
    ],
)
def test_lossless_packing_gives_the_original_back(original: str, packed: list[str]) -> None:
    expected = pixels.decode(_parsed(original)).frames
    for name in packed:
        np.testing.assert_array_equal(pixels.decode(_parsed(name)).frames, expected)


_NOISE = np.random.default_rng(3).integers(0, 4096, (2, 40, 56)).astype(np.uint16)
_COLOUR = np.random.default_rng(4).integers(0, 256, (2, 40, 56, 3)).astype(np.uint8)
_CODERS = {
    codecs.HTJ2K[0]: lambda image: imagecodecs.htj2k_encode(image, reversible=True),
    codecs.HTJ2K[1]: lambda image: imagecodecs.htj2k_encode(image, reversible=True),
    codecs.JPEG_XL[0]: lambda image: imagecodecs.jpegxl_encode(image, lossless=True),
    codecs.JPEG_XL[2]: lambda image: imagecodecs.jpegxl_encode(image, lossless=True, usecontainer=True),
    codecs.JPEG_2000[0]: lambda image: imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, level=0),
    codecs.JPEG_LS[0]: imagecodecs.jpegls_encode,
    codecs.JPEG_LOSSLESS[0]: lambda image: imagecodecs.ljpeg_encode(image, bitspersample=16),
}
_NO_ENCODER = {(codecs.JPEG_LOSSLESS[0], True)}  # the encoder at hand writes one component


@pytest.mark.parametrize(
    ("syntax", "colour"),
    [(syntax, colour) for syntax in _CODERS for colour in (False, True) if (syntax, colour) not in _NO_ENCODER],
)
def test_each_lossless_syntax_round_trips_grey_and_colour(syntax: str, colour: bool) -> None:
    images = _COLOUR if colour else _NOISE
    bits = 8 if colour else 16
    extra = [
        (0x00280002, "US", 3 if colour else 1),
        (0x00280004, "CS", "RGB" if colour else "MONOCHROME2"),
        (0x00280006, "US", 0),
        (0x00280008, "IS", "2"),
        (0x00280010, "US", 40),
        (0x00280011, "US", 56),
        (0x00280100, "US", bits),
        (0x00280101, "US", 8 if colour else 12),
        (0x00280102, "US", 7 if colour else 11),
    ]
    codes = [bytes(_CODERS[syntax](image)) for image in images]
    decoded = pixels.decode(instance.parse(encapsulated(syntax, *codes, extra=extra)))
    np.testing.assert_array_equal(decoded.frames, images)
    assert decoded.photometric == ("RGB" if colour else "MONOCHROME2")


def test_htj2k_is_what_openjpeg_reads() -> None:
    code = bytes(imagecodecs.htj2k_encode(_NOISE[0], reversible=True))
    extra = [(0x00280010, "US", 40), (0x00280011, "US", 56)]
    decoded = pixels.decode(instance.parse(encapsulated(codecs.HTJ2K[0], code, extra=extra)))
    np.testing.assert_array_equal(decoded.frames[0], openjpeg.decode(io.BytesIO(code)))


def test_a_frame_in_many_fragments_is_put_together() -> None:
    code = bytes(imagecodecs.jpegls_encode(_NOISE[0]))
    pieces = [code[at : at + 100] for at in range(0, len(code), 100)]
    extra = [(0x00280010, "US", 40), (0x00280011, "US", 56)]
    decoded = pixels.decode(instance.parse(encapsulated(codecs.JPEG_LS[0], *pieces, extra=extra)))
    np.testing.assert_array_equal(decoded.frames[0], _NOISE[0])


def test_twelve_signed_bits_in_sixteen_are_extended_and_overlays_cleared() -> None:
    stored = np.arange(-32, 32, dtype=np.int16).reshape(8, 8) * 60
    raw = (stored.astype(np.uint16) & 0x0FFF) | 0xA000  # an old overlay in the upper four bits
    extra = [(0x00280101, "US", 12), (0x00280102, "US", 11), (0x00280103, "US", 1), (0x7FE00010, "OW", raw.tobytes())]
    decoded = pixels.decode(instance.parse(rebuilt(extra)))
    assert decoded.frames.dtype == np.int16
    np.testing.assert_array_equal(decoded.frames[0], stored)


def test_bits_stored_high_in_their_word_are_brought_down() -> None:
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64
    extra = [(0x00280101, "US", 12), (0x00280102, "US", 15), (0x7FE00010, "OW", (stored << 4).tobytes())]
    np.testing.assert_array_equal(pixels.decode(instance.parse(rebuilt(extra))).frames[0], stored)


def test_a_photometric_of_one_is_kept_as_found_and_said() -> None:
    decoded = pixels.decode(instance.parse(rebuilt([(0x00280004, "CS", "MONOCHROME1")])))
    assert decoded.photometric == "MONOCHROME1"
    np.testing.assert_array_equal(decoded.frames.ravel(), np.arange(64))


def test_units_are_physical_where_the_file_says_how() -> None:
    ct = pixels.decode(instance.parse(phantom.phantom_study(modality="CT")[0]))
    assert (ct.rescale_slope, ct.rescale_intercept, ct.units) == (1.0, -24.0, "HU")
    assert pixels.decode(_parsed("CT_small.dcm")).units == "HU"  # no RescaleType: CT says it by its kind
    dose = pixels.decode(_parsed("rtdose.dcm"))
    assert dose.units == "RELATIVE"
    assert dose.rescale_slope == float(_parsed("rtdose.dcm").DoseGridScaling)


def test_a_modality_table_is_applied() -> None:
    dataset = _parsed("mlut_18.dcm")
    decoded = pixels.decode(dataset)
    with quietly():
        expected = pydicom.pixels.apply_modality_lut(pydicom.pixels.pixel_array(dataset), dataset)
    np.testing.assert_array_equal(decoded.frames[0], expected)
    assert (decoded.rescale_slope, decoded.rescale_intercept) == (1.0, 0.0)


def test_palette_colour_becomes_rgb() -> None:
    dataset = _parsed("examples_palette.dcm")
    decoded = pixels.decode(dataset)
    with quietly():
        expected = pydicom.pixels.apply_color_lut(pydicom.pixels.pixel_array(dataset), dataset)
    np.testing.assert_array_equal(decoded.frames[0], expected)
    assert (decoded.photometric, decoded.bits_stored) == ("RGB", 16)


@pytest.mark.parametrize(
    ("tag", "vr", "value", "reason"),
    [
        (0x00280002, "US", 4, "UNSUPPORTED"),
        (0x00280100, "US", 24, "UNSUPPORTED"),
        (0x00280101, "US", 17, "CORRUPT_HEADER"),
        (0x00280004, "CS", "CMYK", "UNSUPPORTED"),
        (0x00280004, "CS", "PALETTE COLOR", "UNSUPPORTED"),
    ],
)
def test_what_cannot_be_decoded_is_said_by_its_reason(tag: int, vr: str, value: object, reason: str) -> None:
    pixels_for_four = [(0x7FE00010, "OW", bytes(8 * 8 * 4 * 4))]
    dataset = instance.parse(rebuilt([(tag, vr, value), *pixels_for_four]))
    with pytest.raises(BadInstance) as refused:
        pixels.decode(dataset)
    assert refused.value.reason == reason


def test_float_pixels_and_reports_are_refused_by_their_kind() -> None:
    dataset = instance.parse(rebuilt(without=[0x7FE00010]))
    with pytest.raises(BadInstance, match="NO_PIXELS"):
        pixels.decode(dataset)
    dataset.add_new(0x7FE00008, "OF", bytes(256))
    with pytest.raises(BadInstance, match="UNSUPPORTED"):
        pixels.decode(dataset)
