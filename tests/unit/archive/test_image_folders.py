"""PNG, JPEG and TIFF with a table join the same road as DICOM, and leave their names and EXIF behind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from medgan.archive import images, instance, pixels, sources
from medgan.deid import apply, profile, pseudonym
from medgan.errors import BadInstance, UnusableArchive
from medgan.settings import Zones
from tests.unit.archive.builders import KEYRING, closed, scan_path, sound, write_files

_DRAW = np.random.default_rng(11)
GREY16 = _DRAW.integers(0, 65536, (20, 30)).astype(np.uint16)
GREY = _DRAW.integers(0, 256, (20, 30)).astype(np.uint8)
COLOUR = _DRAW.integers(0, 256, (20, 30, 3)).astype(np.uint8)
TABLE = b"image,patient_id,finding,modality\n"


def _file(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def _claims_60000() -> bytes:
    """A PNG of a few bytes whose header says 60,000 x 60,000."""
    header = b"IHDR" + struct.pack(">2L5B", 60_000, 60_000, 16, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + header + struct.pack(">L", zlib.crc32(header))
    return start + struct.pack(">L", 4) + b"IDAT" + bytes(64)


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "DOE^JANE 1970-01-01"  # ImageDescription
    return _file(GREY, "JPEG", quality=95, exif=exif, comment=b"Jane Doe was here")


def _read(found, zones: Zones):  # type: ignore[no-untyped-def]
    locators = [locator for study in found.studies for locator in study.instances]
    return [instance.read(locator, zones=zones, keyring=KEYRING) for locator in locators]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.png", _file(GREY16, "PNG"), GREY16),
        ("a.png", _file(GREY, "PNG"), GREY),
        ("a.png", _file(COLOUR, "PNG"), COLOUR),
        ("a.png", _file(np.dstack([COLOUR, GREY]), "PNG"), COLOUR),
        ("a.tif", _file(GREY16, "TIFF"), GREY16),
        ("a.tif", _file(GREY16, "TIFF", compression="tiff_lzw"), GREY16),
        ("a.tif", _file(COLOUR, "TIFF"), COLOUR),
    ],
)
def test_lossless_pictures_keep_every_bit(
    name: str, content: bytes, expected: np.ndarray, tmp_path: Path, zones: Zones
) -> None:
    table = TABLE + f"{name},P-1,normal,CR\n".encode()
    report, found = scan_path(write_files(tmp_path / "in", {name: content, "t.csv": table}), zones)
    assert (report.instances, report.rejected) == (1, {})
    (data,) = _read(found, zones)
    dataset = instance.parse(data)
    np.testing.assert_array_equal(pixels.decode(dataset).frames[0], expected)
    assert (dataset.PatientID, dataset.Modality) == ("P-1", "CR")


def test_exif_comments_and_names_stay_behind(tmp_path: Path, zones: Zones) -> None:
    files = {"DOE_JANE_1970.jpg": _with_exif(), "t.csv": TABLE + b"DOE_JANE_1970.jpg,P-1,normal,\n"}
    _, found = scan_path(write_files(tmp_path / "in", files), zones)
    (data,) = _read(found, zones)
    assert b"DOE" not in data
    assert b"Jane" not in data
    assert instance.parse(data).LossyImageCompression == "01"


def test_the_table_groups_pictures_by_patient_and_labels_join(tmp_path: Path, zones: Zones) -> None:
    files = {f"train/{number}.png": _file(GREY + number, "PNG") for number in range(4)}
    rows = b"train/0.png,P-1,normal,DX\ntrain/1.png,P-1,normal,DX\n2.png,P-2,sick,DX\n"
    report, found = scan_path(write_files(tmp_path / "in", {**files, "t.csv": TABLE + rows}), zones)
    assert (report.instances, report.studies, report.patients) == (3, 2, 2)
    assert report.rejected == {"NO_PATIENT": 1}
    assert {row["PatientID"] for row in found.labels} == {"P-1", "P-2"}
    again, found_again = scan_path(tmp_path / "in", zones)
    assert (again, found_again) == (report, found)
    assert {instance.parse(data).PatientID for data in _read(found_again, zones)} == {"P-1", "P-2"}


def test_pictures_wait_while_their_table_may_lie_in_a_folder_that_cannot_be_listed(
    tmp_path: Path, zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, unnamed = TABLE + b"one.png,P-1,normal,CR\n", TABLE + b"two.png,P-2,normal,CR\n"
    pictures = {f"{name}.png": _file(GREY + step, "PNG") for step, name in enumerate(("one", "two", "three"))}
    source = write_files(tmp_path / "in", {**pictures, "t.csv": named, "closed/t.csv": unnamed})
    closed(source / "closed", monkeypatch)
    (report, _) = scan_path(source, zones)
    assert (report.instances, report.waiting, report.rejected) == (1, 2, {"UNREADABLE_FOLDER": 1})
    monkeypatch.undo()
    (report, _) = scan_path(source, zones)
    assert (report.instances, report.waiting, report.rejected) == (2, 0, {"NO_PATIENT": 1})


def test_patients_whose_long_ids_begin_alike_stay_two(tmp_path: Path, zones: Zones) -> None:
    ids = ["P" * 70 + "1", "P" * 70 + "2"]
    files = {f"{number}.png": _file(GREY + number, "PNG") for number in range(2)}
    rows = "".join(f"{number}.png,{ids[number]},x,\n" for number in range(2))
    _, found = scan_path(write_files(tmp_path / "in", {**files, "t.csv": TABLE + rows.encode()}), zones)
    clean = [apply.deidentify(data, profile=profile.load(), keyring=KEYRING) for data in _read(found, zones)]
    assert {one.patient_key for one in clean} == {pseudonym.patient(KEYRING, "", one).key for one in ids}


def test_two_rows_that_disagree_name_nobody(tmp_path: Path, zones: Zones) -> None:
    files = {"a/1.png": _file(GREY, "PNG"), "t.csv": TABLE + b"1.png,P-1,x,\n1.png,P-2,x,\n"}
    report, _ = scan_path(write_files(tmp_path / "in", files), zones)
    assert report.rejected == {"NOT_DICOM": 1}


def test_a_longer_path_wins_over_a_bare_name(tmp_path: Path, zones: Zones) -> None:
    files = {"a/1.png": _file(GREY, "PNG"), "b/1.png": _file(GREY + 1, "PNG")}
    rows = TABLE + b"1.png,P-1,x,\nb/1.png,P-2,x,\n"
    report, found = scan_path(write_files(tmp_path / "in", {**files, "t.csv": rows}), zones)
    assert report.patients == 2
    assert {instance.parse(data).PatientID for data in _read(found, zones)} == {"P-1", "P-2"}


def test_files_of_one_name_in_many_folders_are_looked_up_and_not_compared_with_each_other(monkeypatch) -> None:
    """As in CheXpert, where 223,414 files have few names: comparing each with each takes hours."""
    looks = []

    class Counted(PurePosixPath):
        @property
        def parts(self) -> tuple[str, ...]:
            looks.append(self)
            return super().parts

    monkeypatch.setattr(images, "PurePosixPath", Counted)
    rows = [{"Path": f"train/patient{number}/study1/view1.jpg", "PatientID": str(number)} for number in range(200)]
    found = images.cards([f"/in/{row['Path']}" for row in rows], rows)
    assert {place.split("/")[3]: card.patient_id for place, card in found.items()} == {
        f"patient{number}": str(number) for number in range(200)
    }
    assert len(looks) == 2 * len(rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_file(GREY16, "PNG")[:12], "CORRUPT_PIXELS"),
        (_file(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), "UNSUPPORTED"),
        (_file(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]), "UNSUPPORTED"),
        (_claims_60000(), "TOO_LARGE"),
    ],
)
def test_pictures_that_cannot_be_read_are_refused(content: bytes, reason: str, tmp_path: Path, zones: Zones) -> None:
    files = {"x.png": content, "t.csv": TABLE + b"x.png,P-1,x,\n", "good.dcm": sound()}
    report, _ = scan_path(write_files(tmp_path / "in", files), zones)
    assert report.instances == 1
    assert report.rejected == {reason: 1}


@pytest.mark.parametrize("cut", [_file(GREY16, "PNG")[:-200], _file(GREY16, "PNG")[:60], _file(GREY, "JPEG")[:-40]])
def test_a_picture_that_breaks_inside_is_refused_when_read(cut: bytes, tmp_path: Path, zones: Zones) -> None:
    files = {"x.png": cut, "t.csv": TABLE + b"x.png,P-1,x,\n"}
    _, found = scan_path(write_files(tmp_path / "in", files), zones)
    with pytest.raises(BadInstance, match="CORRUPT_PIXELS"):
        _read(found, zones)


def test_preflight_wants_a_table_beside_pictures(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"x.png": _file(GREY, "PNG")})
    with pytest.raises(UnusableArchive, match="table"):
        sources.preflight(source)
    sources.preflight(write_files(source, {"t.csv": TABLE}))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_no_log_line_quotes_what_a_picture_says_of_somebody(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where somebody lets every library speak."""
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = "Zuviqoraxe"
    data = _file(GREY, kind, exif=exif)
    assert b"Zuviqoraxe" in data
    caplog.set_level("DEBUG")
    images.check(data, f"image/{kind.lower()}")
    assert "Zuviqoraxe" not in caplog.text
