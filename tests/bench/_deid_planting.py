"""Plants unique needles on the surfaces where de-identifiers leak, with an answer key, and finds what is left.

Every needle is unique, so whatever finds it after de-identification has found a leak. The answer key follows
the ten actions of the MIDI-B challenge. A missing output fails each of its checks.
"""

from __future__ import annotations

import datetime as dt
import io
import random
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom import Dataset, Sequence, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import ExplicitVRLittleEndian

# (SpecificCharacterSet, Python codec, letters that names are drawn from): seventeen, in fifteen character sets.
SCRIPTS = (
    ("ISO_IR 100", "latin-1", "äöüßéèçñåø"),
    ("ISO_IR 101", "iso8859-2", "čšžřěůłąęń"),
    ("ISO_IR 144", "iso8859-5", "абвгдежзиклмнопрстуфхц"),
    ("ISO_IR 126", "iso8859-7", "αβγδεζηθικλμνξοπρστ"),
    ("ISO_IR 127", "iso8859-6", "ابتثجحخدذرزسشصضطظعغ"),
    ("ISO_IR 138", "iso8859-8", "אבגדהוזחטיכלמנסעפצקר"),
    ("ISO_IR 148", "iso8859-9", "ğışçöü"),
    ("ISO_IR 166", "tis-620", "กขคงจฉชซญดตถทธน"),
    ("ISO_IR 192", "utf-8", "가나다라마바사아자차카타파하"),
    ("ISO_IR 192", "utf-8", "山田川口村上中野原"),
    ("GB18030", "gb18030", "王李张刘陈杨黄赵"),
    ("ISO_IR 192", "utf-8", "देवनागरीकखगघ"),
    ("ISO_IR 13", "shift_jis", "ｱｲｳｴｵｶｷｸｹｺｻｼｽｾｿ"),
    ("ISO_IR 109", "iso8859-3", "ĉĝĥĵŝŭħż"),
    ("ISO_IR 110", "iso8859-4", "āčēģīķļņšūž"),
    ("ISO 2022 IR 149", "euc-kr", "가나다라마바사아자차카타파하"),
    ("GBK", "gbk", "王李张刘陈杨黄赵"),
)
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


@dataclass(slots=True)
class Planted:
    """One planted file: `data` as written, its needles by surface, and what the answer key expects."""

    name: str
    data: bytes
    needles: list[tuple[str, str]] = field(default_factory=list)
    retained: dict[str, Any] = field(default_factory=dict)
    decoys: dict[str, str] = field(default_factory=dict)
    not_null: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    dates: dict[str, str] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    pixels: Any = None


class Maker:
    """Draws unique needles; remembers each with its surface."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - needles, not keys
        self.script = SCRIPTS[seed % len(SCRIPTS)]
        self.found: list[tuple[str, str]] = []

    def word(self, syllables: int = 4) -> str:
        return "".join(
            self.random.choice(_CONSONANTS) + self.random.choice(_VOWELS) for _ in range(syllables)
        ).capitalize()

    def note(self, surface: str, needle: str) -> str:
        self.found.append((surface, needle))
        return needle

    def name(self, surface: str, *, native: bool = False) -> str:
        family, given = self.word(), self.word()
        if native:
            letters = self.script[2]
            family, given = ("".join(self.random.choice(letters) for _ in range(7)) for _ in range(2))
        self.note(surface, family)
        self.note(surface, given)
        return f"{family}^{given}"

    def digits(self, surface: str, count: int = 9) -> str:
        first = self.random.choice("3456789")
        return self.note(surface, first + "".join(self.random.choice("0123456789") for _ in range(count - 1)))

    def mrn(self, surface: str) -> str:
        return self.note(surface, f"{self.word(1).upper()}{self.random.randrange(10**7, 10**8)}")

    def phone(self, surface: str) -> str:
        number = (
            f"{self.random.randrange(200, 999)}-{self.random.randrange(200, 999)}-{self.random.randrange(1000, 9999)}"
        )
        return self.note(surface, number)

    def text(self, surface: str) -> str:
        """A sentence that hides a name and a number."""
        return f"seen by Dr {self.note(surface, self.word())}, call {self.phone(surface)}"

    def uid(self, surface: str) -> str:
        return self.note(surface, f"1.2.826.0.1.{self.random.randrange(10**9, 10**10)}.{self.random.randrange(10**7)}")


def plant(base: bytes, name: str, seed: int) -> Planted:
    """`base`, a readable instance, with needles on every surface that its encoding allows."""
    maker = Maker(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(io.BytesIO(base), force=True)
        planted = Planted(name=name, data=b"")
        _answer_key(dataset, planted, maker)
        for surface in SURFACES:
            surface(dataset, maker)
        data = _write(dataset, maker)
    planted.data = data
    planted.needles = maker.found
    return planted


def _answer_key(dataset: Dataset, planted: Planted, maker: Maker) -> None:
    for keyword in ("Rows", "Columns", "BitsStored", "PixelSpacing", "SliceThickness", "ImagePositionPatient"):
        if dataset.get(keyword) not in (None, ""):
            planted.retained[keyword] = dataset[keyword].value
    planted.retained["SOPClassUID"] = dataset.get("SOPClassUID")
    planted.retained["Modality"] = dataset.get("Modality")
    dataset.StudyDate, dataset.SeriesDate, dataset.ContentDate = "20190411", "20190411", "20190413"
    dataset.AcquisitionDateTime = "20190412081530.250000"
    planted.dates = {"StudyDate": "20190411", "ContentDate": "20190413", "AcquisitionDateTime": "20190412"}
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, maker.uid(keyword))
        planted.uids[keyword] = dataset[keyword].value
    planted.removed = ["InstitutionAddress", "OtherPatientIDs", "PatientAddress", "PatientTelephoneNumbers"]
    planted.decoys = {
        "SeriesDescription": "Parkinson protocol",
        "ReceiveCoilName": f"4{maker.random.randrange(10**7):07d}",
    }
    for keyword, value in planted.decoys.items():
        setattr(dataset, keyword, value)
    dataset.ProtocolName = f"T1 axial head {maker.word()}"
    planted.not_null = ["ProtocolName", "PatientID", "PatientName"]
    if "PixelData" in dataset:
        planted.pixels = _frames(dataset)


def _frames(dataset: Dataset) -> Any:
    try:
        return dataset.pixel_array.copy()
    except Exception:  # noqa: BLE001 - what does not decode before need not decode after
        return None


def _item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _people(dataset: Dataset, maker: Maker) -> None:
    dataset.SpecificCharacterSet = maker.script[0]
    dataset.PatientName = maker.name("PatientName", native=True)
    dataset.PatientID = maker.mrn("PatientID")
    dataset.OtherPatientIDs = maker.mrn("OtherPatientIDs")
    dataset.OtherPatientNames = maker.name("OtherPatientNames")
    dataset.PatientMotherBirthName = maker.name("PatientMotherBirthName", native=True)
    dataset.PatientAddress = maker.note("PatientAddress", f"{maker.random.randrange(10, 99)} {maker.word()} Street")
    dataset.PatientTelephoneNumbers = maker.phone("PatientTelephoneNumbers")
    dataset.ReferringPhysicianName = maker.name("ReferringPhysicianName")
    dataset.OperatorsName = maker.name("OperatorsName")
    dataset.PhysiciansOfRecord = maker.name("PhysiciansOfRecord")
    dataset.ResponsiblePerson = maker.name("ResponsiblePerson")
    dataset.IssuerOfPatientID = maker.note("IssuerOfPatientID", maker.word(5))


def _places(dataset: Dataset, maker: Maker) -> None:
    dataset.InstitutionName = maker.note("InstitutionName", f"{maker.word()} Infirmary")
    dataset.InstitutionAddress = maker.note("InstitutionAddress", f"{maker.word()} Road 7")
    dataset.StationName = maker.note("StationName", maker.word())
    dataset.DeviceSerialNumber = maker.digits("DeviceSerialNumber")
    dataset.AccessionNumber = maker.mrn("AccessionNumber")
    dataset.StudyID = maker.digits("StudyID")
    dataset.RetrieveURL = "https://" + maker.note("RetrieveURL", f"{maker.word().lower()}.example.org") + "/study"


def _texts(dataset: Dataset, maker: Maker) -> None:
    for keyword in ("StudyDescription", "ImageComments", "AdditionalPatientHistory"):
        setattr(dataset, keyword, maker.text(keyword)[:64])
    dataset.StudyComments = maker.text("StudyComments")
    dataset.DerivationDescription = maker.text("DerivationDescription")
    dataset.Manufacturer = f"Siemens {maker.note('Manufacturer', maker.word())}"
    dataset.SoftwareVersions = maker.note("SoftwareVersions", f"by {maker.word()}")
    dataset.WindowCenterWidthExplanation = maker.note("WindowCenterWidthExplanation", maker.word())
    dataset.BodyPartExamined = maker.note("BodyPartExamined", maker.word(3).upper())
    dataset.FrameLabel = maker.note("FrameLabel", maker.mrn("FrameLabel"))


def _private(dataset: Dataset, maker: Maker) -> None:
    block = dataset.private_block(0x0099, maker.note("private creator", f"{maker.word()} CORP"), create=True)
    block.add_new(0x01, "LO", maker.name("private LO"))
    block.add_new(0x02, "UN", maker.mrn("private UN").encode().ljust(12, b" "))
    block.add_new(0x03, "UN", maker.note("private UTF-16", maker.word(5)).encode("utf-16-le"))
    block.add_new(0x04, "SQ", Sequence([_item(PatientName=maker.name("private sequence"))]))
    block.add_new(0x05, "OB", maker.note("private OB", maker.word(6)).encode())
    safe = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    safe.add_new(0x0C, "IS", "1000")
    safe.add_new(0x10, "LO", maker.name("private beside safe"))


def _sequences(dataset: Dataset, maker: Maker) -> None:
    dataset.RequestAttributesSequence = Sequence(
        [_item(RequestedProcedureDescription=maker.text("RequestAttributesSequence"))]
    )
    deep: Dataset = _item(
        CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning=maker.name("AnatomicRegion 4")
    )
    for depth in (3, 2, 1):
        code = _item(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning=maker.word())
        code.CodeMeaning = maker.note(f"AnatomicRegion {depth}", code.CodeMeaning)
        code.AnatomicRegionModifierSequence = Sequence([deep])
        code.PatientName = maker.name(f"AnatomicRegion {depth} person")
        deep = code
    dataset.AnatomicRegionSequence = Sequence([deep])
    local = _item(
        CodeValue=maker.mrn("local code"), CodingSchemeDesignator="99LOCAL", CodeMeaning=maker.text("local code")
    )
    dataset.ProcedureCodeSequence = Sequence([local])
    dataset.OriginalAttributesSequence = Sequence(
        [_item(ModifiedAttributesSequence=Sequence([_item(PatientName=maker.name("OriginalAttributesSequence"))]))]
    )
    dataset.ReferencedImageSequence = Sequence(
        [
            _item(
                ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=maker.uid("ReferencedImage")
            )
        ]
    )
    dataset.OtherPatientIDsSequence = Sequence([_item(PatientID=maker.mrn("OtherPatientIDsSequence"))])
    dataset.ReferencedPatientSequence = Sequence([_item(ReferencedSOPInstanceUID=maker.uid("ReferencedPatient"))])


def _documents(dataset: Dataset, maker: Maker) -> None:
    leaf = _item(ValueType="TEXT", RelationshipType="CONTAINS", TextValue=maker.text("SR TextValue"))
    person = _item(ValueType="PNAME", RelationshipType="HAS OBS CONTEXT", PersonName=maker.name("SR PersonName"))
    dataset.ContentSequence = Sequence([_item(ValueType="CONTAINER", ContentSequence=Sequence([leaf, person]))])
    dataset.EncapsulatedDocument = b"%PDF-1.4 (" + maker.name("encapsulated PDF").encode() + b") Tj %%EOF "
    dataset.DocumentTitle = maker.note("DocumentTitle", maker.word())
    dataset.GraphicAnnotationSequence = Sequence(
        [_item(TextObjectSequence=Sequence([_item(UnformattedTextValue=maker.text("GraphicAnnotation"))]))]
    )


def _bulk(dataset: Dataset, maker: Maker) -> None:
    dataset.ICCProfile = (b"ICC " + maker.name("ICC profile").encode()).ljust(128, b"\0")
    icon = _item(Rows=4, Columns=4, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=8)
    icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 7, 0
    icon.PixelData = maker.note("IconImageSequence", maker.word(8)[:16].ljust(16, "x")).encode()
    dataset.IconImageSequence = Sequence([icon])
    dataset.add_new(0x60003000, "OW", maker.note("OverlayData", maker.word(8)).encode().ljust(64, b"\0"))
    dataset.add_new(0x60000022, "LO", maker.name("OverlayDescription"))
    dataset.add_new(0x60004000, "LT", maker.text("OverlayComments"))
    dataset.add_new(0x50003000, "OW", maker.note("CurveData", maker.word(8)).encode().ljust(64, b"\0"))
    dataset.add_new(0xFFFCFFFC, "OB", maker.note("DataSetTrailingPadding", maker.word(8)).encode().ljust(32, b"\0"))
    dataset.add_new(0x0018FFF0, "LO", maker.phone("unknown public tag"))
    dataset.add_new(0x00104000, "UN", maker.text("PatientComments as UN").encode().ljust(64, b" "))
    dataset.add_new(0x00081090, "UN", maker.name("ManufacturerModelName as UN").encode().ljust(32, b" "))


def _pixels(dataset: Dataset, maker: Maker) -> None:
    if "PixelData" not in dataset:
        return
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        hidden = maker.name("behind native pixels").encode()
        dataset.PixelData += hidden + b" " * ((len(hidden) + len(dataset.PixelData)) % 2)
        return
    fragments = list(generate_fragments(dataset.PixelData))
    if len(fragments) != 2 or not fragments[1].startswith(b"\xff\xd8\xff"):
        return
    comment = maker.name("JPEG comment").encode()
    changed = fragments[1][:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + fragments[1][2:]
    dataset.PixelData = encapsulate([changed])
    dataset["PixelData"].is_undefined_length = True


def _hidden_in_words(dataset: Dataset, maker: Maker) -> None:
    """What stands between technical words, where a profile cleans text instead of removing it."""
    dataset.PerformedProcedureStepDescription = f"brain {maker.note('all capitals', maker.word(5).upper())} axial"[:64]
    dataset.RequestedProcedureDescription = f"CT {maker.note('mail address', maker.word().lower() + '@clinic.org')}"
    dataset.AcquisitionProtocolDescription = f"head T1 {maker.phone('fax')}"
    dataset.PerformedProcedureStepID = maker.note("accession in text", f"A{maker.random.randrange(10**6, 10**7)}")
    day, year = maker.random.randrange(1, 29), maker.random.randrange(1931, 1999)
    dataset.RequestedContrastAgent = f"given {maker.note('date in text', f'{day:02d}-NOV-{year}')}"
    dataset.AcquisitionComments = f"zip {maker.note('ZIP code', _postal(maker))} brain"
    dataset.FrameComments = f"from {maker.note('address of a machine', _address(maker))}"
    dataset.ContrastBolusAgent = f"agent of Dr {maker.note('name behind a title', maker.word())}"


def _postal(maker: Maker) -> str:
    """ZIP+4: five digits alone stand in many a UID by chance."""
    return f"{maker.random.randrange(30000, 99999)}-{maker.random.randrange(1000, 9999)}"


def _address(maker: Maker) -> str:
    return ".".join(str(maker.random.randrange(100, 250)) for _ in range(4))


def _deep(dataset: Dataset, maker: Maker) -> None:
    """Ten sequences deep, below attributes that are kept."""
    inner = _item(PatientName=maker.name("depth 10 person"), StudyDescription=maker.text("depth 10 text")[:64])
    for _ in range(10):
        inner = _item(SourceImageSequence=Sequence([inner]))
    dataset.SourceImageSequence = Sequence([inner])


def _objects(dataset: Dataset, maker: Maker) -> None:
    """Labels of structure sets and segmentations, devices, long VRs, retired attributes."""
    roi = _item(
        ROINumber=1, ROIName=f"PTV {maker.note('ROIName', maker.word())}", ROIDescription=maker.text("ROI text")[:64]
    )
    dataset.StructureSetROISequence = Sequence([roi])
    dataset.StructureSetLabel = maker.note("StructureSetLabel", maker.word())
    dataset.RTPlanName = maker.note("RTPlanName", maker.word())
    dataset.SegmentSequence = Sequence(
        [
            _item(
                SegmentNumber=1,
                SegmentLabel=maker.note("SegmentLabel", maker.word()),
                TrackingID=maker.name("TrackingID"),
            )
        ]
    )
    dataset.DetectorID = maker.mrn("DetectorID")
    dataset.GantryID = maker.note("GantryID", maker.word())
    dataset.UniqueDeviceIdentifier = maker.digits("UniqueDeviceIdentifier", 14)
    dataset.add_new(0x0040E010, "UR", f"https://{maker.note('UR', maker.word().lower())}.org")
    dataset.add_new(0x0040A160, "UT", maker.text("UT"))
    dataset.add_new(0x00189367, "UC", maker.note("UC", maker.word(6)))
    dataset.add_new(0x00200070, "LO", maker.note("retired OtherStudyNumbers", maker.word(5)))
    dataset.add_new(0x00080201, "SH", maker.note("TimezoneOffset", maker.word()))
    dataset.ScanOptions = maker.note("ScanOptions", maker.word().upper())
    safe = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
    safe.add_new(0x06, "CS", maker.note("safe private CS", maker.word().upper()))
    safe.add_new(0x25, "SH", maker.note("safe private SH", maker.word()))
    safe.add_new(0x7D, "OB", maker.note("safe private OB", maker.word(8)).encode())


SURFACES: tuple[Callable[[Dataset, Maker], None], ...] = (
    _people, _places, _texts, _private, _sequences, _documents, _bulk, _pixels, _hidden_in_words, _deep, _objects,
)  # fmt: skip


def _write(dataset: Dataset, maker: Maker) -> bytes:
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.SourceApplicationEntityTitle = maker.note("SourceApplicationEntityTitle", maker.word(4)[:16])
    meta.PrivateInformationCreatorUID = maker.uid("PrivateInformationCreatorUID")
    meta.PrivateInformation = maker.note("PrivateInformation", maker.word(6)).encode()
    dataset.preamble = maker.note("preamble", maker.name("preamble")).encode().ljust(128, b"\0")[:128]
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    data = out.getvalue()
    if str(meta.TransferSyntaxUID) == "1.2.840.10008.1.2.1.99":
        return data
    return data + maker.note("behind the last element", maker.name("behind the last element")).encode()


def encodings(needle: str) -> Iterator[bytes]:
    """Every form in which a needle may have been written: codecs, case, PN separators."""
    cases = {needle, needle.lower(), needle.upper()}
    cases |= {case.replace("^", other) for case in set(cases) for other in (" ", "_", ", ")}
    codecs = {"utf-8", "utf-16-le", "utf-16-be"} | {codec for _, codec, _ in SCRIPTS}
    seen = set()
    for case in cases:
        for codec in codecs:
            try:
                raw = case.encode(codec)
            except UnicodeEncodeError:
                continue
            if raw not in seen:
                seen.add(raw)
                yield raw


def is_found(needle: str, written: bytes, inflated: bytes = b"") -> bool:
    """Whether `needle` stands in `written` (or in its inflated form) in any encoding."""
    return any(raw in written or raw in inflated for raw in encodings(needle))


def inflate(data: bytes) -> bytes:
    """The dataset of a deflated file, so that the scanner is not blind to it; empty otherwise."""
    import zlib

    at = data.find(b"1.2.840.10008.1.2.1.99")
    if at < 0 or data[128:132] != b"DICM":
        return b""
    length = struct.unpack_from("<L", data, 140)[0]
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[144 + length :])


def checks(planted: Planted, output: bytes | None) -> dict[str, list[bool]]:
    """Verdicts by MIDI-B action for one file; all false where there is no output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clean = dcmread(io.BytesIO(output)) if output is not None else Dataset()
        said = clean.get
        present = output is not None
        written, inflated = output or b"", inflate(output or b"")
        meta_uid = clean.file_meta.MediaStorageSOPInstanceUID if present else None
        verdicts = {
            "tag_retained": [present and said(keyword) == value for keyword, value in planted.retained.items()],
            "text_notnull": [said(keyword) not in (None, "") for keyword in planted.not_null],
            "text_retained": [said(keyword) == value for keyword, value in planted.decoys.items()],
            "text_removed": [present and said(keyword) in (None, "") for keyword in planted.removed],
            "needle_removed": [present and not is_found(one, written, inflated) for _, one in planted.needles],
            "date_shifted": _shifts(planted, clean),
            "uid_changed": [said(keyword) not in (None, "", value) for keyword, value in planted.uids.items()],
            "uid_consistent": [present and said("SOPInstanceUID") == meta_uid],
            "patid_consistent": [present and str(said("PatientID")) == str(said("PatientName"))],
        }
        if planted.pixels is not None:
            after = _frames(clean) if present else None
            verdicts["pixels_retained"] = [after is not None and np.array_equal(after, planted.pixels)]
    return verdicts


def _shifts(planted: Planted, clean: Dataset) -> list[bool]:
    """Whether each date moved, and all by the same number of days."""
    moved = {keyword: str(clean.get(keyword, ""))[:8] for keyword in planted.dates}
    verdicts = [moved[keyword].isdigit() and moved[keyword] != value for keyword, value in planted.dates.items()]
    gaps = {
        dt.date.fromisoformat(moved[keyword]) - dt.date.fromisoformat(value)
        for keyword, value in planted.dates.items()
        if moved[keyword].isdigit()
    }
    return [*verdicts, len(gaps) == 1]
