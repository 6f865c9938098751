"""Archives of real pixels and people who do not exist: for the demo, the docs and the tests.

The pixels are those of public data sets; names, ids, dates, addresses, telephones, private tags and
file names are made up, planted where real archives have them: in the header, in sequences, in
private elements, in free text and in the names of folders. Everything planted is listed, so that a
sweep over raw bytes can say whether one got through. A seed decides every byte.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from medgan.archive import people, writer
from medgan.archive.people import Person
from medgan.archive.writer import Element
from medgan.errors import UnusableArchive

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINDINGS: Final = ("normal", "pneumonia")
_SPLITS: Final = ("train", "val", "test")
_DX: Final = "1.2.840.10008.5.1.4.1.1.1.1"
_CT: Final = "1.2.840.10008.5.1.4.1.1.2"
_MR: Final = "1.2.840.10008.5.1.4.1.1.4"
_SOP_CLASSES: Final = {"DX": _DX, "CT": _CT, "MR": _MR}
_INSTITUTION: Final = "Fictitious Teaching Hospital of Nowhereham"
_INSTITUTION_ADDRESS: Final = "1 Imaginary Square, Nowhereham, NW0 0XX"
_PRIVATE_CREATOR: Final = "PHANTOM VENDOR 1.0"
_SHORTEST_NEEDLE: Final = 6
_MEMBER_TIME: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A built archive and what was planted in it.

    `needles` are names, ids, addresses, telephones, UIDs, timestamps to the microsecond, private and
    free text: each long enough that meeting it in released bytes is no chance. `dates` are plain
    eight-digit dates: too short for a sweep of random bytes, right for a column of a table.
    """

    archive: Path
    patients: int
    instances: int
    vendor_files: int
    needles: tuple[str, ...] = field(repr=False)
    dates: tuple[str, ...] = field(repr=False)


def build_demo_archive(
    folder: Path,
    *,
    radiographs: Path,
    patients: int | None = None,
    seed: int = 7,
    vendor_files: bool = True,
) -> Planted:
    """Write `<folder>/archive.zip`: one chest radiograph study a patient, and `labels.csv`.

    `radiographs` is the npz of PneumoniaMNIST: (N, 28, 28) uint8 images and (N, 1) labels in three
    splits, all of which are used; `patients` limits their number. With `vendor_files` the files that
    pydicom installs (real scanners, some broken on purpose) stand beside them. Built whole or not at
    all; the same arguments give the same bytes.
    """
    images_NHW, labels_N = _read_radiographs(radiographs)
    # The npz is sorted by finding; shuffled, so that the first few hundred patients have both.
    order_N = np.random.default_rng(seed).permutation(len(images_NHW))
    images_NHW, labels_N = images_NHW[order_N], labels_N[order_N]
    count = len(images_NHW) if patients is None else min(patients, len(images_NHW))
    needles: dict[str, None] = dict.fromkeys((_INSTITUTION, _INSTITUTION_ADDRESS, *people.ISSUERS))
    dates: set[str] = set()
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    archive, temporary = folder / "archive.zip", folder / f".archive-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
                for number in range(count):
                    someone = people.person(number, seed=seed)
                    _add(target, _file_name(someone), _radiograph(someone, images_NHW[number], seed))
                    needles.update(dict.fromkeys(_needles(someone, seed)))
                    dates.update((f"{someone.birth_date:%Y%m%d}", f"{someone.study_time:%Y%m%d}"))
                    rows.append((someone.patient_id, FINDINGS[labels_N[number]], someone.sex, someone.age))
                _add(target, "labels.csv", _label_table(rows, seed))
                vendor = _add_vendor_files(target) if vendor_files else 0
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)
    strong = tuple(needle for needle in needles if len(needle) >= _SHORTEST_NEEDLE)
    return Planted(
        archive=archive, patients=count, instances=count, vendor_files=vendor,
        needles=strong, dates=tuple(sorted(dates)),
    )  # fmt: skip


def phantom_study(
    *,
    patient: int = 1,
    study: int = 1,
    modality: str = "CT",
    instances: int = 1,
    rows: int = 16,
    columns: int = 16,
    burned_in: bool = False,
    seed: int = 7,
    extra: Iterable[Element] = (),
) -> tuple[bytes, ...]:
    """Part 10 files of one study of one fictitious patient: a small volume in one series.

    Pixels are 12 bits in 16 (CT signed, with rescale to HU), a disc that moves with the slice; with
    `burned_in` a white text-like block stands in the top rows and the header does not say so.
    `extra` elements replace or join the built ones.
    """
    if modality not in _SOP_CLASSES:
        message = f"phantoms are made for {', '.join(_SOP_CLASSES)}"
        raise ValueError(message)
    someone = people.person(patient, seed=seed)
    files = []
    for number in range(instances):
        pixels = _disc(rows, columns, number, signed=modality == "CT")
        if burned_in:
            pixels[1 : max(2, rows // 8), 1 : max(2, columns // 2) : 2] = 2000
        base = _identity(someone, seed, study=study, number=number)
        made = {one[0]: one for one in (*base, *_cross_section(modality, number, pixels), *extra)}
        files.append(writer.part10([made[tag] for tag in sorted(made)]))
    return tuple(files)


def needles_of(patient: int, *, seed: int = 7) -> tuple[str, ...]:
    """Everything that identifies one phantom patient in its files, as in `Planted.needles`."""
    return tuple(
        needle for needle in _needles(people.person(patient, seed=seed), seed) if len(needle) >= _SHORTEST_NEEDLE
    )


def uid(*parts: object) -> str:
    """A UID under 2.25 that depends on `parts` only (PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _study_uids(someone: Person, seed: int, study: int, number: int) -> tuple[str, str, str]:
    key = ("phantom", seed, someone.number, study)
    return uid(*key), uid(*key, "series"), uid(*key, "instance", number)


def _read_radiographs(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            images = np.concatenate([stored[f"{split}_images"] for split in _SPLITS])
            labels = np.concatenate([stored[f"{split}_labels"] for split in _SPLITS])
    except (OSError, KeyError, ValueError):
        message = "the file of radiographs cannot be read: it should be pneumoniamnist.npz of MedMNIST v2"
        raise UnusableArchive(message) from None
    return images, labels.reshape(-1).astype(np.intp)


def _add(target: zipfile.ZipFile, name: str, content: bytes) -> None:
    target.writestr(zipfile.ZipInfo(name, _MEMBER_TIME), content, zipfile.ZIP_DEFLATED, 1)


def _file_name(someone: Person) -> str:
    return f"{someone.folder}/{someone.study_time:%Y%m%d}_CHEST/IM-0001-0001.dcm"


def _label_table(rows: list[tuple[str, str, str, int]], seed: int) -> bytes:
    """labels.csv as a registry exports it: in no particular order."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("PatientID", "finding", "sex", "age"))
    shuffled = {hashlib.sha256(f"{seed}/{row[0]}".encode()).digest(): row for row in rows}
    table.writerows(shuffled[digest] for digest in sorted(shuffled))
    return text.getvalue().encode()


def _vendor_paths() -> Iterator[tuple[str, Path]]:
    import pydicom

    root = Path(pydicom.__file__).parent / "data"
    for part in ("charset_files", "test_files"):
        for path in sorted((root / part).rglob("*")):
            if path.is_file():
                yield path.relative_to(root).as_posix(), path


def _add_vendor_files(target: zipfile.ZipFile) -> int:
    count = 0
    for name, path in _vendor_paths():
        _add(target, f"vendors/{name}", path.read_bytes())
        count += 1
    return count


def _needles(someone: Person, seed: int) -> Iterator[str]:
    """What identifies one patient, in the spelling in which it was planted."""
    yield from someone.name.split("=")
    yield someone.spoken
    yield from _study_uids(someone, seed, 1, 0)
    yield from (someone.patient_id, someone.other_id, someone.address, someone.telephone, someone.mother)
    yield from (someone.referring, someone.operator, _accession(someone), _moment(someone), _private_id(someone))
    yield from (someone.folder, f"{someone.birth_date:%d %B %Y}, {someone.address}")


def _accession(someone: Person) -> str:
    return f"ACC{someone.number:06d}-{someone.study_time:%y%m}"


def _private_id(someone: Person) -> str:
    return f"VENDOR-PAT-{someone.patient_id}"


def _moment(someone: Person) -> str:
    return f"{someone.study_time:%Y%m%d%H%M%S.%f}"


def _identity(someone: Person, seed: int, *, study: int = 1, number: int = 0) -> Iterator[Element]:
    """Everything about the patient, the visit and the hospital, planted where archives have it."""
    study_uid, series_uid, instance_uid = _study_uids(someone, seed, study, number)
    name, spoken = someone.script.encode(someone.name), someone.script.encode(someone.spoken)
    when = someone.study_time + dt.timedelta(days=90 * (study - 1))
    date, time = f"{when:%Y%m%d}", f"{when:%H%M%S.%f}"
    born = f"{someone.birth_date:%Y%m%d}"
    if someone.script.character_set:
        yield (0x00080005, "CS", someone.script.character_set)
    yield from ((0x00080012, "DA", date), (0x00080013, "TM", time), (0x00080018, "UI", instance_uid))
    yield from ((tag, "DA", date) for tag in (0x00080020, 0x00080021, 0x00080022, 0x00080023))
    yield (0x0008002A, "DT", f"{when:%Y%m%d%H%M%S.%f}")
    yield from ((tag, "TM", time) for tag in (0x00080030, 0x00080031, 0x00080032, 0x00080033))
    yield from ((0x00080050, "SH", _accession(someone)), (0x00080070, "LO", "Phantom Imaging"))
    yield from ((0x00080080, "LO", _INSTITUTION), (0x00080081, "ST", _INSTITUTION_ADDRESS))
    yield from ((0x00080090, "PN", someone.referring), (0x00081010, "SH", f"STATION-{someone.number % 9}"))
    yield from ((0x00081030, "LO", b"Chest of " + spoken), (0x00081050, "PN", someone.referring))
    yield from ((0x00081070, "PN", someone.operator), (0x00081090, "LO", "Model P"))
    yield from ((0x00100010, "PN", name), (0x00100020, "LO", someone.patient_id), (0x00100021, "LO", someone.issuer))
    yield from ((0x00100030, "DA", born), (0x00100040, "CS", someone.sex))
    yield (
        0x00101002,
        "SQ",
        [[(0x00100020, "LO", someone.other_id), (0x00100021, "LO", "NATIONAL"), (0x00100022, "CS", "TEXT")]],
    )
    yield from ((0x00101010, "AS", f"{someone.age:03d}Y"), (0x00101040, "LO", someone.address))
    yield from ((0x00101060, "PN", someone.mother), (0x00102154, "SH", someone.telephone[:16]))
    remark = f". Born {someone.birth_date:%d %B %Y}, {someone.address}. Call {someone.telephone}.".encode()
    yield (0x00104000, "LT", spoken + remark)
    yield from _private(someone, name)
    yield from ((0x00181000, "LO", f"SERIAL-{someone.number % 9:04d}-77"), (0x00181020, "LO", "1.0"))
    yield from ((0x0020000D, "UI", study_uid), (0x0020000E, "UI", series_uid))
    yield from (
        (0x00200010, "SH", f"ST{someone.number:06d}"),
        (0x00200011, "IS", "1"),
        (0x00200013, "IS", str(number + 1)),
    )
    yield (0x00204000, "LT", b"Repeat for " + spoken)
    requested = [(0x00401001, "SH", f"RP{someone.number:06d}"), (0x00321060, "LO", b"Thorax, " + spoken)]
    yield (0x00400275, "SQ", [requested])
    old = [(0x00100010, "PN", name), (0x00100020, "LO", someone.other_id)]
    altered = [(0x04000550, "SQ", [old]), (0x04000562, "DT", date), (0x04000563, "LO", "PACS")]
    altered += [(0x04000564, "LO", ""), (0x04000565, "CS", "CORRECT")]
    yield (0x04000561, "SQ", [altered])


def _private(someone: Person, name: bytes) -> Iterator[Element]:
    """A vendor's own block: the patient again, in text, in a nested sequence and in undeclared bytes."""
    yield (0x00110010, "LO", _PRIVATE_CREATOR)
    yield (0x00111001, "LO", _private_id(someone))
    nested = [(0x00110010, "LO", _PRIVATE_CREATOR), (0x00111003, "PN", name), (0x00111004, "LO", someone.telephone)]
    yield (0x00111002, "SQ", [nested])
    yield (0x00111005, "UN", f"{someone.address};{someone.mother}".encode())


def _radiograph(someone: Person, pixels: NDArray[np.uint8], seed: int) -> bytes:
    """One DX instance for presentation (PS3.3 A.26): 8 bits in 8, as the public images are."""
    made = {one[0]: one for one in (*_identity(someone, seed), *_projection(pixels))}
    return writer.part10([made[tag] for tag in sorted(made)])


def _coded(value: str, scheme: str, meaning: str) -> list[Element]:
    return [(0x00080100, "SH", value), (0x00080102, "SH", scheme), (0x00080104, "LO", meaning)]


def _projection(pixels: NDArray[np.uint8]) -> Iterator[Element]:
    """The DX modules that are not about the patient (PS3.3 C.8.11)."""
    rows, columns = pixels.shape
    yield from ((0x00080008, "CS", "DERIVED\\PRIMARY"), (0x00080016, "UI", _DX), (0x00080060, "CS", "DX"))
    yield (0x00080068, "CS", "FOR PRESENTATION")
    view = [*_coded("399348003", "SCT", "antero-posterior"), (0x00540222, "SQ", [])]
    yield (0x00082218, "SQ", [_coded("51185008", "SCT", "Chest")])
    yield from ((0x00180015, "CS", "CHEST"), (0x00181164, "DS", "5.0\\5.0"), (0x00181508, "CS", "NONE"))
    yield from ((0x00185101, "CS", "AP"), (0x00187004, "CS", "DIRECT"), (0x00540220, "SQ", [view]))
    yield from ((0x00200020, "CS", "L\\F"), (0x00200062, "CS", "U"))
    yield from _image(rows, columns, allocated=8, stored=8, signed=False)
    yield from (
        (0x00281040, "CS", "LOG"),
        (0x00281041, "SS", -1),
        (0x00281050, "DS", "127.5"),
        (0x00281051, "DS", "255"),
    )
    yield from ((0x00281052, "DS", "0"), (0x00281053, "DS", "1"), (0x00281054, "LO", "US"))
    yield from (
        (0x00282110, "CS", "00"),
        (0x00280301, "CS", "NO"),
        (0x00400555, "SQ", []),
        (0x20500020, "CS", "IDENTITY"),
    )
    yield (0x7FE00010, "OB", pixels.tobytes())


def _image(rows: int, columns: int, *, allocated: int, stored: int, signed: bool) -> Iterator[Element]:
    yield from ((0x00280002, "US", 1), (0x00280004, "CS", "MONOCHROME2"), (0x00280010, "US", rows))
    yield from ((0x00280011, "US", columns), (0x00280100, "US", allocated), (0x00280101, "US", stored))
    yield from ((0x00280102, "US", stored - 1), (0x00280103, "US", int(signed)))


def _cross_section(modality: str, number: int, pixels: NDArray[Any]) -> Iterator[Element]:
    """A slice of a CT or MR volume, or a 12-bit DX: geometry in LPS mm, 2.5 mm apart."""
    rows, columns = pixels.shape
    yield from ((0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"), (0x00080016, "UI", _SOP_CLASSES[modality]))
    yield from ((0x00080060, "CS", modality), (0x00180015, "CS", "CHEST"), (0x00180050, "DS", "2.5"))
    yield from ((0x00200032, "DS", f"-100\\-100\\{2.5 * number}"), (0x00200037, "DS", "1\\0\\0\\0\\1\\0"))
    yield from ((0x00200052, "UI", uid("phantom", "frame of reference")), (0x00201040, "LO", ""))
    yield from ((0x00185100, "CS", "HFS"), (0x00200012, "IS", "1"))
    yield from (
        (0x00280030, "DS", "0.8\\0.8"),
        *_image(rows, columns, allocated=16, stored=12, signed=modality == "CT"),
    )
    if modality == "CT":
        yield from (
            (0x00281052, "DS", "-24"),
            (0x00281053, "DS", "1"),
            (0x00281054, "LO", "HU"),
            (0x00180060, "DS", "120"),
        )
    if modality == "MR":
        yield from ((0x00180020, "CS", "SE"), (0x00180021, "CS", "NONE"), (0x00180022, "CS", ""))
        yield from ((0x00180023, "CS", "2D"), (0x00180080, "DS", "500"), (0x00180081, "DS", "15"))
        yield (0x00180091, "IS", "1")
    yield (0x7FE00010, "OW", pixels.astype("<i2" if modality == "CT" else "<u2").tobytes())


def _disc(rows: int, columns: int, number: int, *, signed: bool) -> NDArray[np.int16]:
    """(H, W) int16 within 12 bits: a disc on a gradient, another one for each slice."""
    y, x = np.mgrid[:rows, :columns]
    inside = (y - rows / 2) ** 2 + (x - columns / 2 - number % 3) ** 2 < (min(rows, columns) / 3) ** 2
    values = np.where(inside, 1040 + 10 * number, -900 if signed else 60) + (3 * x + 2 * y) % 50
    disc: NDArray[np.int16] = values.astype(np.int16)
    return disc
