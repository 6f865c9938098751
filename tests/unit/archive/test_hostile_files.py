"""Each line of the first table of the reliability page, with a file built for it."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from medgan.archive import codecs, container, instance, judge, pixels, quarantine, structure
from medgan.deid import apply, profile
from medgan.errors import BadInstance
from medgan.settings import Zones
from tests.unit.archive import builders
from tests.unit.archive.builders import KEYRING, encapsulated, nested, rebuilt, scan_path, sound, with_raw, write_files

_REPORT = (0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.88.11")
_PIXEL_MODULE = (0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280100, 0x7FE00010)
_SAME = (0x00080018, "UI", "2.25.77")


def _truncated_in_meta() -> bytes:
    return sound()[:190]


def _truncated_in_dataset() -> bytes:
    whole = sound()
    return whole[: structure.walk(whole).elements[0x00100010].start + 3]


def _half_the_pixels() -> bytes:
    return sound(rows=64, columns=64)[:-4096]


def _fewer_pixels_than_promised() -> bytes:
    return rebuilt([(0x7FE00010, "OW", bytes(64))])


def _claims_4_gib() -> bytes:
    return with_raw(b"\x10\x00\x00\x40UT\0\0\xf0\xff\xff\xff" + b"x" * 10)


def _un_sequence_20000_deep() -> bytes:
    """Nesting hidden in UN of defined length, which pydicom turns back into sequences."""
    value = b""
    for _ in range(20_000):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(value)) + value
        value = b"\x40\x00\x30\xa7" + struct.pack("<L", len(item)) + item
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(value)) + value
    return with_raw(b"\x40\x00\x30\xa7UN\0\0" + struct.pack("<L", len(item)) + item)


def _many_private_elements() -> bytes:
    block = b"".join(struct.pack("<HH2sH", 0x29, 0x1000 + n, b"LO", 2) + b"ab" for n in range(0xEFFF))
    block += b"".join(struct.pack("<HH2sH", 0x2B, 0x1000 + n, b"LO", 2) + b"ab" for n in range(0x9000))
    # groups ascend, and the plain file's pixel module is in 0028
    return with_raw(block)


def _in_place_of(tag: int, vr: str, value: object) -> Callable[[], bytes]:
    return lambda: rebuilt([(tag, vr, value)])


REFUSED = {
    "an empty file": (lambda: b"", "NOT_DICOM"),
    "a PNG called .dcm": (lambda: imagecodecs.png_encode(np.zeros((64, 64), np.uint8)), "NOT_DICOM"),
    "a PDF called .dcm": (lambda: b"%PDF-1.7\n" + bytes(600), "NOT_DICOM"),
    "a text": (lambda: b"dear colleague, " * 50, "NOT_DICOM"),
    "truncated in meta": (_truncated_in_meta, "TRUNCATED"),
    "truncated in the data set": (_truncated_in_dataset, "TRUNCATED"),
    "truncated between two elements": (
        lambda: sound()[: structure.walk(sound()).elements[0x00080018].end],
        "TRUNCATED",
    ),
    "no pixel data where pixels are promised": (lambda: rebuilt(without=[0x7FE00010]), "TRUNCATED"),
    "half the pixel data": (_half_the_pixels, "TRUNCATED"),
    "fewer pixels than promised": (_fewer_pixels_than_promised, "TRUNCATED"),
    "an element of 4 GiB in a small file": (_claims_4_gib, "BAD_LENGTH"),
    "20,000 nested sequences": (lambda: nested(20_000, undefined=True), "TOO_DEEP"),
    "20,000 nested sequences of defined length": (lambda: nested(20_000, undefined=False), "TOO_DEEP"),
    "20,000 nested sequences inside UN": (_un_sequence_20000_deep, "TOO_DEEP"),
    "a deflate bomb": (lambda: builders.deflated(bytes(96 << 20)), "BOMB"),
    "rows and columns of 65535, 2^31 frames": (
        lambda: rebuilt([(0x00280010, "US", 65535), (0x00280011, "US", 65535), (0x00280008, "IS", str(1 << 31))]),
        "TOO_LARGE",
    ),
    "rows and columns of 65535 in 32 bits": (
        lambda: rebuilt([(0x00280010, "US", 65535), (0x00280011, "US", 65535), (0x00280100, "US", 32)]),
        "TOO_LARGE",
    ),
    "frames that are no number": (_in_place_of(0x00280008, "IS", "many"), "CORRUPT_HEADER"),
    "no rows": (_in_place_of(0x00280010, "US", 0), "CORRUPT_HEADER"),
    "an unknown VR": (lambda: with_raw(b"\x28\x00\x00\x20QQ\x02\x00ab"), "CORRUPT_HEADER"),
    "a tag twice": (lambda: with_raw(b"\x10\x00\x20\x00LO\x04\x00ID-2"), "CORRUPT_HEADER"),
    "a UID that climbs": (_in_place_of(0x0020000D, "UI", "../../../x"), "BAD_UID"),
    "a UID of 65 characters": (_in_place_of(0x0020000E, "UI", "1." + "2" * 64), "BAD_UID"),
    "no UID of the instance": (lambda: rebuilt([(0x00080018, "UI", "")]), "BAD_UID"),
    "100,000 private elements": (_many_private_elements, "TOO_MANY_ELEMENTS"),
    "no patient": (_in_place_of(0x00100020, "LO", ""), "NO_PATIENT"),
    "a report, which has no pixels": (lambda: rebuilt([_REPORT], without=_PIXEL_MODULE), "NO_PIXELS"),
    "a value that leaves its item": (
        lambda: with_raw(b"\x40\x00\x30\xa7SQ\0\0\x12\0\0\0\xfe\xff\x00\xe0\x0a\0\0\0\x08\x00\x60\x00CS\xff\x00ab"),
        "BAD_LENGTH",
    ),
}


@pytest.mark.parametrize("called", [b"idna", b"hex", b"punycode", b"\\", b"ISO_IR 999", b"\xff\xfe"])
@pytest.mark.parametrize("patient", [b"M\xfcller", b"\x1b$B;3ED\x1b(B", b"\x1b$)C\xb1\xe8", b"ID-1\t"])
def test_a_patient_is_the_same_to_scan_and_to_ingest_whatever_character_set_a_file_names(
    called: bytes, patient: bytes, tmp_path: Path, zones: Zones
) -> None:
    data = rebuilt([(0x00080005, "CS", called), (0x00100020, "LO", patient)])
    clean = apply.deidentify(data, profile=profile.load("basic"), keyring=KEYRING)
    assert judge.read_header(data, KEYRING).patient == clean.patient_key
    report, _ = scan_path(write_files(tmp_path / "in", {"bad.dcm": data, "good.dcm": sound(patient=2)}), zones)
    assert report.instances == 2


def test_what_no_reader_foresaw_costs_one_file(tmp_path: Path, zones: Zones, monkeypatch) -> None:
    monkeypatch.setattr(structure, "walk", lambda data: {}[data])  # a KeyError that quotes the file
    report, _ = scan_path(write_files(tmp_path / "in", {"bad.dcm": sound()}), zones)
    assert report.rejected == {"CORRUPT_HEADER": 1}


def test_a_file_that_this_machine_had_no_memory_for_is_read_by_the_next_scan(
    tmp_path: Path, zones: Zones, monkeypatch
) -> None:
    def full(_: bytes) -> None:
        raise MemoryError

    source = write_files(tmp_path / "in", {"a.dcm": sound()})
    with monkeypatch.context() as patched:
        patched.setattr(structure, "walk", full)
        assert scan_path(source, zones)[0].rejected == {"CHANGED_WHILE_READ": 1}
    report, _ = scan_path(source, zones)
    assert (report.instances, report.rejected) == (1, {})


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_file_is_quarantined_with_its_reason_and_the_scan_goes_on(
    what: str, tmp_path: Path, zones: Zones
) -> None:
    build, reason = REFUSED[what]
    bad = build()
    source = write_files(tmp_path / "in", {"bad.dcm": bad, "good.dcm": sound(patient=2)})
    report, found = scan_path(source, zones)
    assert report.rejected == {reason: 1}
    assert report.instances == 1
    digest = builders.sha256(bad)
    record = quarantine.load(zones, digest)
    assert record is not None
    assert (record.reason, record.stage) == (reason, "scan")
    assert digest in found.received


def test_no_prefix_of_a_file_is_accepted() -> None:
    whole = sound(rows=8, columns=8)
    instance.parse(whole)
    for cut in range(0, len(whole), 3):
        with pytest.raises(BadInstance) as refused:
            judge.read_header(whole[:cut], KEYRING)
        allowed = {"TRUNCATED", "NO_PIXELS"} if cut >= 140 else {"NOT_DICOM", "TRUNCATED"}
        assert refused.value.reason in allowed, (cut, refused.value.reason)


@pytest.mark.parametrize(
    "padded", [b"", b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0Mustapha"], ids=["pixels last", "padding last"]
)
def test_what_was_appended_to_an_image_is_left_behind_and_the_image_is_taken(padded: bytes) -> None:
    appended = sound(rows=8, columns=8) + padded + b"Lovelace^Ada 1815-12-10"
    dataset = instance.parse(appended)
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    assert b"Lovelace" not in written.getvalue()
    assert dataset.pixel_array.shape == (8, 8)
    assert judge.read_header(appended, KEYRING)


def test_no_flipped_byte_makes_the_reader_raise_anything_but_its_own_refusal() -> None:
    whole = bytearray(rebuilt())
    draw = np.random.default_rng(5)
    said = set()
    for _ in range(1500):
        broken = bytearray(whole)
        for at in draw.integers(128, len(whole), 3):
            broken[at] = draw.integers(256)
        try:
            dataset = instance.parse(bytes(broken))
            decoded = pixels.decode(dataset)
            assert decoded.frames.ndim in {3, 4}
        except BadInstance as refused:
            said.add((str(refused), refused.reason))
    assert len(said) > 5
    assert all(message == reason for message, reason in said)  # nothing of the file is quoted


BROKEN_CODES = {
    "RLE that ends early": (
        codecs.RLE,
        lambda: struct.pack("<16L", 2, 64, 70, *[0] * 13) + b"\x05abc",
        "CORRUPT_PIXELS",
    ),
    "RLE of too few segments": (codecs.RLE, lambda: struct.pack("<16L", 1, 64, *[0] * 14) + b"\xc1a", "CORRUPT_PIXELS"),
    "RLE whose segments lie outside": (
        codecs.RLE,
        lambda: struct.pack("<16L", 2, 64, 9999, *[0] * 13),
        "CORRUPT_PIXELS",
    ),
    "JPEG lossless cut": (codecs.JPEG_LOSSLESS[1], lambda: _ljpeg()[:-20], "CORRUPT_PIXELS"),
    "JPEG-LS cut": (codecs.JPEG_LS[0], lambda: imagecodecs.jpegls_encode(_ramp())[:-8], "CORRUPT_PIXELS"),
    "JPEG 2000 cut": (codecs.JPEG_2000[0], lambda: _j2k(_ramp())[:-12], "CORRUPT_PIXELS"),
    "JPEG 2000 of another size": (codecs.JPEG_2000[0], lambda: _j2k(np.zeros((9, 8), np.uint16)), "CORRUPT_PIXELS"),
    "JPEG XL cut": (
        codecs.JPEG_XL[0],
        lambda: imagecodecs.jpegxl_encode(_ramp(), lossless=True)[:-8],
        "CORRUPT_PIXELS",
    ),
    "noise for JPEG": (codecs.JPEG_BASELINE, lambda: bytes(range(256)), "CORRUPT_PIXELS"),
    "a J2K header of 60000 x 60000": (codecs.JPEG_2000[1], lambda: _claims_60000(), "TOO_LARGE"),  # noqa: PLW0108
    "a JPEG header of 60000 x 60000": (codecs.JPEG_LOSSLESS[1], lambda: _jpeg_claims_60000(), "TOO_LARGE"),  # noqa: PLW0108
}


def _ramp() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4096, (8, 8)).astype(np.uint16)


def _ljpeg() -> bytes:
    return bytes(imagecodecs.ljpeg_encode(_ramp(), bitspersample=16))


def _j2k(image: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, level=0))


def _claims_60000() -> bytes:
    code = bytearray(_j2k(_ramp()))
    at = code.index(b"\xff\x4f\xff\x51") + 8
    code[at : at + 8] = struct.pack(">2L", 60000, 60000)
    return bytes(code)


def _jpeg_claims_60000() -> bytes:
    code = bytearray(_ljpeg())
    at = code.index(b"\xff\xc3") + 5
    code[at : at + 4] = struct.pack(">2H", 60000, 60000)
    return bytes(code)


@pytest.mark.parametrize("what", BROKEN_CODES)
def test_a_broken_codestream_gives_no_partial_frame(what: str) -> None:
    syntax, build, reason = BROKEN_CODES[what]
    dataset = instance.parse(encapsulated(syntax, build()))
    with pytest.raises(BadInstance) as refused:
        pixels.decode(dataset)
    assert refused.value.reason == reason


def test_fewer_frames_than_promised_are_refused() -> None:
    code = imagecodecs.jpegls_encode(_ramp())
    dataset = instance.parse(encapsulated(codecs.JPEG_LS[0], code, code, extra=[(0x00280008, "IS", "3")]))
    with pytest.raises(BadInstance, match="CORRUPT_PIXELS"):
        pixels.decode(dataset)


@pytest.mark.parametrize("program", [b"MZ\x90\0", b"\x7fELF", b"#!/bin/sh\n", b"II*\0"])
def test_a_program_in_the_preamble_does_not_survive(program: bytes) -> None:
    whole = program.ljust(128, b"\x90") + rebuilt()[128:]
    assert instance.parse(whole).preamble == bytes(128)


def test_one_instance_uid_with_two_contents_is_a_conflict_and_neither_is_taken(tmp_path: Path, zones: Zones) -> None:
    one, other = rebuilt([_SAME]), rebuilt([_SAME, (0x7FE00010, "OW", bytes(128))])
    source = write_files(tmp_path / "in", {"a.dcm": one, "b.dcm": other, "c.dcm": sound()})
    report, _ = scan_path(source, zones)
    assert report.rejected == {"CONFLICT": 2}
    assert report.instances == 1


def test_one_image_packed_in_several_ways_is_taken_once(tmp_path: Path, zones: Zones) -> None:
    """As archives hold it after a migration; with another patient's name on one of them it is a conflict again."""
    image = np.arange(64, dtype=np.uint16).reshape(8, 8)
    packed = encapsulated(codecs.JPEG_LS[0], bytes(imagecodecs.jpegls_encode(image)))
    broken = encapsulated(codecs.JPEG_2000[0], _j2k(image)[:-12])
    source = write_files(tmp_path / "in", {"a": rebuilt(), "b": packed})
    report, _ = scan_path(source, zones)
    assert (report.instances, report.duplicates, report.rejected) == (1, 1, {})
    report, _ = scan_path(write_files(source, {"c": broken}), zones)
    assert (report.instances, report.rejected) == (0, {"CONFLICT": 3})
    (source / "c").unlink()
    report, _ = scan_path(write_files(source, {"d": rebuilt([(0x00100020, "LO", "ID-2")])}), zones)
    assert (report.instances, report.rejected) == (0, {"CONFLICT": 3})


def test_one_patient_id_is_two_people_under_two_issuers_and_flagged_under_one(tmp_path: Path, zones: Zones) -> None:
    def of(name: str, number: int, issuer: str) -> bytes:
        uids = [(tag, "UI", f"2.25.{number}{tag & 0xFF}") for tag in (0x00080018, 0x0020000D, 0x0020000E)]
        return rebuilt([(0x00100010, "PN", name), (0x00100021, "LO", issuer), *uids])

    files = {"a": of("Doe^Jane", 1, "A"), "b": of("Roe^Rick", 2, "B"), "c": of("Poe^Edgar", 3, "B")}
    report, _ = scan_path(write_files(tmp_path / "in", files), zones)
    assert (report.patients, report.ambiguous_patients) == (2, 1)


def test_a_number_that_is_none_is_passed_on_and_not_multiplied() -> None:
    for slope in ("NaN", "0", "1e308"):
        decoded = pixels.decode(instance.parse(rebuilt([(0x00281052, "DS", "0"), (0x00281053, "DS", slope)])))
        assert decoded.frames.max() == 63
        assert str(decoded.rescale_slope) == str(float(slope))


def test_links_devices_and_pipes_are_not_followed(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"good.dcm": sound()})
    secret = write_files(tmp_path / "elsewhere", {"other.dcm": sound(patient=9)}) / "other.dcm"
    (source / "link.dcm").symlink_to(secret)
    (source / "folder").symlink_to(secret.parent)
    os.mkfifo(source / "pipe.dcm")
    report, _ = scan_path(source, zones)
    assert report.rejected == {"NOT_REGULAR_FILE": 3}
    assert report.instances == 1


def test_a_file_that_changes_after_the_scan_is_refused(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"a.dcm": sound()})
    _, found = scan_path(source, zones)
    (locator,) = found.studies[0].instances
    assert instance.read(locator, zones=zones, keyring=KEYRING) == sound()
    changed = bytearray(sound())
    changed[-1] ^= 1
    (source / "a.dcm").write_bytes(changed)
    with pytest.raises(BadInstance, match="CHANGED_WHILE_READ"):
        instance.read(locator, zones=zones, keyring=KEYRING)
    (source / "a.dcm").unlink()
    (source / "a.dcm").symlink_to(write_files(tmp_path / "b", {"a": sound()}) / "a")
    with pytest.raises(BadInstance, match="NOT_REGULAR_FILE"):
        instance.read(locator, zones=zones, keyring=KEYRING)


def test_a_refusal_quotes_neither_the_file_nor_its_place(tmp_path: Path, zones: Zones, capfd, caplog) -> None:
    name = "DOE_JANE_19700101"
    bad = {
        f"{name}/{number}.dcm": build()
        for number, (build, _) in enumerate(REFUSED.values())
        if number not in {14, 21, 25}  # the large ones
    }
    write_files(tmp_path / "in", bad)
    report, _ = scan_path(tmp_path / "in", zones)
    said = "".join(capfd.readouterr()) + caplog.text + report.model_dump_json()
    stored = b"".join(path.read_bytes() for path in zones.identified.rglob("*") if path.is_file())
    for identifier in ("DOE", "Doe", "Jane", "19700101", "ID-1"):
        assert identifier not in said
        assert identifier.encode() not in stored


def test_an_oversized_file_is_refused_before_it_is_read(tmp_path: Path, zones: Zones) -> None:
    source = write_files(tmp_path / "in", {"good.dcm": sound()})
    with (source / "huge.dcm").open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse
    report, _ = scan_path(source, zones)
    assert report.rejected == {"TOO_LARGE": 1}


def test_a_zip_member_is_read_without_trusting_its_size(tmp_path: Path) -> None:
    extent = container.Extent(str(tmp_path / "x"), 0, 4, 8, 10)
    (tmp_path / "x").write_bytes(b"\0\1\2\3")
    with pytest.raises(BadInstance, match="BAD_ARCHIVE"):
        container.read_extent(extent)
