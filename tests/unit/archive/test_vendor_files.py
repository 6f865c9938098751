"""Every file that pydicom installs, from real scanners and broken on purpose, has its place or its reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pydicom
import pytest

from medgan.archive import instance, judge, pixels
from medgan.errors import BadInstance
from medgan.settings import Zones
from tests.unit.archive.builders import KEYRING, scan_path

ROOT = Path(pydicom.__file__).parent / "data"
MORE = Path(pytest.importorskip("data_store").__file__).parent / "data"

# Looked at one by one; what is not here is read and decoded.
REASONS = {
    "NOT_DICOM": {"no_meta.dcm", "crayons.icc", "FileInfo.txt", "README.txt", "README", "zipMR.gz"}
    | {"rtplan.dump", "rtstruct.dump", "test1.json", "test_PN.json"},
    "TRUNCATED": {"MR_truncated.dcm", "rtplan_truncated.dcm", "empty_charset_LEI.dcm", "no_meta_group_length.dcm"}
    | {"emri_small_jpeg_2k_lossless_too_short.dcm"}
    # rows and columns are promised and no pixels follow
    | {"chrJapMulti.dcm", "chrJapMultiExplicitIR6.dcm", "chrKoreanMulti.dcm"},
    # no StudyInstanceUID, an empty one, or none of them at all: fragments of files
    "BAD_UID": {"chrSQEncoding.dcm", "chrSQEncoding1.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm"}
    | {"SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "UN_sequence.dcm", "meta_missing_tsyntax.dcm"}
    | {"nested_priv_SQ.dcm", "priv_SQ.dcm", "bad_sequence.dcm"},
    "CORRUPT_HEADER": {"badVR.dcm"},  # a number that is none
    "NO_PATIENT": {"ExplVR_BigEnd.dcm", "GDCMJ2K_TextGBR.dcm", "SC_jpeg_no_color_transform.dcm", "image_dfl.dcm"}
    | {"SC_jpeg_no_color_transform_2.dcm", "SC_rgb_jpeg.dcm", "SC_rgb_jpeg_app14_dcmd.dcm", "SC_rgb_jpeg_dcmd.dcm"}
    | {"JPGLosslessP14SV1_1s_1f_8b.dcm", "OT-PAL-8-face.dcm", "color-pl.dcm", "color-px.dcm", "emri_small.dcm"}
    | {"emri_small_RLE.dcm", "emri_small_big_endian.dcm", "emri_small_jpeg_2k_lossless.dcm"}
    | {"emri_small_jpeg_ls_lossless.dcm"},
    "NO_PIXELS": {"ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "reportsi.dcm", "rtplan.dcm", "rtstruct.dcm"}
    | {"reportsi_with_empty_number_tags.dcm", "test-SR.dcm", "waveform_ecg.dcm"},
    "TOO_LARGE": {"JPEG2000-embedded-sequence-delimiter.dcm"},  # its codestream claims 14,540,801 tiles
}
LARGE = {"color3d_jpeg_baseline.dcm"}  # 120 frames: read, not decoded here


def _reason(path: Path) -> str:
    data = path.read_bytes()
    if judge.is_media_directory(data):
        return "directory"
    try:
        judge.read_header(data, KEYRING)
        dataset = instance.parse(data)
        if path.name not in LARGE:
            pixels.decode(dataset)
    except BadInstance as refused:
        return refused.reason
    return "read"


def _files() -> list[Path]:
    folders = (ROOT / "charset_files", ROOT / "test_files", MORE)
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def test_each_vendor_file_is_read_or_refused_for_its_own_reason() -> None:
    expected = {name: reason for reason, names in REASONS.items() for name in names}
    found = {path: _reason(path) for path in _files()}
    for path, reason in found.items():
        if path.name.startswith("IM0000"):  # TINY_ALPHA: headers of a CT, stripped of their pixels
            assert reason == "NO_PIXELS"
        elif path.name.startswith("DICOMDIR"):
            assert reason == "directory"
        else:
            assert reason == expected.get(path.name, "read"), path.name
    assert Counter(found.values())["read"] > 140


def test_a_scan_of_them_accounts_for_every_file(zones: Zones) -> None:
    report, found = scan_path(ROOT / "test_files", zones)
    assert report.files == sum(1 for path in (ROOT / "test_files").rglob("*") if path.is_file())
    assert report.files == report.instances + report.duplicates + report.tables + sum(report.rejected.values())
    assert report.tables == 9  # eight DICOMDIRs and a structure set
    assert len(found.received) == report.files - report.tables - report.duplicates
