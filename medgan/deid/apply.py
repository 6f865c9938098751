"""One instance in, one de-identified instance out.

The header is walked as raw elements; a rule of the profile decides each, at every depth; what no rule
keeps is not copied. Preamble, file meta, group lengths and trailing bytes are written anew. The result is searched
for original values before it is returned.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medgan.archive import charsets
from medgan.deid import actions, codes, frames, mapping, private, pseudonym, screen, table, verify
from medgan.deid.elements import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Element,
    Source,
    copied,
    encode,
    encode_item,
    take_apart,
)
from medgan.deid.native import little_endian
from medgan.deid.profile import METHODS, Profile
from medgan.errors import BadInstance, MedganError
from medgan.keys import Keyring

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydicom import Dataset

    from medgan.deid.deface import Shear

VERSION = "0.1"
IMPLEMENTATION_UID = b"2.25.251407911738012927165107293812646107253"
IMPLEMENTATION_NAME = b"MEDGAN_" + VERSION.replace(".", "_").encode()
_BLANK = b" \0"
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
CHARACTER_SET, PATIENT_NAME, PATIENT_ID, ISSUER, BIRTH_DATE = 0x00080005, 0x00100010, 0x00100020, 0x00100021, 0x00100030
WINDOW = frozenset((0x00281050, 0x00281051))  # center and width
WINDOW_EXPLANATION = 0x00281055
CODE_VALUE, LONG_CODE, CODE_SCHEME, CODE_MEANING = 0x00080100, 0x00080119, 0x00080102, 0x00080104
_ID_KEYWORD = re.compile(r"ID(?:s|(?![a-z]))|Number|Identifier|Telephone")
PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
WAVEFORMS, DIRECTORY = 0x54000100, 0x00041220
MEDIA_INDEX, DOCUMENT_CLASSES = "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.104."


@dataclass(frozen=True, kw_only=True)
class DeidentifiedInstance:
    """A de-identified instance: `data` is a Part 10 file, the keys are pseudonyms, `actions` counts by code."""

    data: bytes
    instance_key: str
    series_key: str
    study_key: str
    patient_key: str
    source_sha256: str
    actions: dict[str, int]
    profile: str
    profile_digest: str
    date_shift_days: int = field(default=0, repr=False)
    origin: mapping.Origin | None = field(default=None, repr=False)
    """In memory only: for a site that keeps a map, see `mapping`."""

    @functools.cached_property
    def dataset(self) -> Dataset:
        """`data` as pydicom reads it."""
        from pydicom import dcmread

        return dcmread(io.BytesIO(self.data))


def audit_line(clean: DeidentifiedInstance) -> dict[str, Any]:
    """What the audit says of one instance: by whom, by which rules, how often which action; no original value."""
    return {
        "instance_key": clean.instance_key,
        "series_key": clean.series_key,
        "study_key": clean.study_key,
        "patient_key": clean.patient_key,
        "actions": clean.actions,
        "profile": clean.profile,
        "edition": table.EDITION,
        "profile_digest": clean.profile_digest,
        "tool": f"medgan {VERSION}",
    }


class Work:
    """The work on one instance: its source, its patient, and what was done so far."""

    def __init__(self, source: Source, profile: Profile, keyring: Keyring) -> None:
        """Collect the originals and derive the patient; nothing is rewritten yet."""
        self.source = source
        self.buffer = source.buffer
        self.explicit = source.explicit
        self.profile = profile
        self.rules = profile.rules
        self.keyring = keyring
        self.keeps_private = "safe-private" in profile.options
        self.counts: Counter[str] = Counter()
        self.written: set[bytes] = set(actions.DUMMY.values())
        self.kept: set[str] = set()
        self.top = {element.tag: element for element in reversed(source.elements)}
        self.character_sets = self.raw(CHARACTER_SET)
        collector = verify.Collector(self.buffer, self.character_sets)
        collector.collect(source.elements, listed=_listed(profile))
        self.originals = collector.found
        self.names = frozenset(self.originals.names)
        self.origin = mapping.Origin(
            issuer=collector.text_of(self.raw(ISSUER)),
            patient_id=collector.text_of(self.raw(PATIENT_ID)),
            patient_name=collector.text_of(self.raw(PATIENT_NAME)),
            study_uid=self.raw(STUDY).decode("ascii", "replace"),
        )
        self.patient = self._patient()
        self.pixel_bytes: bytes = b""
        self.within = 0
        """Tag of the kept sequence whose items are being rewritten; 0 at the top."""

    def raw(self, tag: int) -> bytes:
        """Stripped bytes of a top-level attribute; empty where it is missing."""
        element = self.top.get(tag)
        return self.buffer[element.start : element.stop].strip(_BLANK) if element is not None else b""

    def text(self, element: Element) -> str:
        """A value decoded by the instance's character sets; what does not decode becomes U+FFFD."""
        raw = self.buffer[element.start : element.stop]
        return charsets.text_of(raw, self.character_sets)

    def number(self, tag: int, default: int) -> int:
        """A top-level US attribute."""
        element = self.top.get(tag)
        if element is None or element.stop - element.start != 2:  # noqa: PLR2004 - US is two bytes
            return default
        return int.from_bytes(self.buffer[element.start : element.stop], "little")

    def uid(self, tag: int) -> str:
        """A top-level UID that the instance cannot do without."""
        text = self.raw(tag).decode("ascii", "replace")
        if not screen.UID_PATTERN.fullmatch(text):
            raise BadInstance("BAD_UID", "the instance has no valid SOP, series or study instance UID")
        return text

    def _patient(self) -> pseudonym.Patient:
        if self.origin.patient_id:
            return pseudonym.patient(self.keyring, self.origin.issuer, self.origin.patient_id)
        name, born = self.origin.patient_name, self.raw(BIRTH_DATE).decode("ascii", "replace")
        if not name:
            raise BadInstance("NO_PATIENT", "the instance names no patient, so it cannot be kept apart from others")
        return pseudonym.patient(self.keyring, "\0name", f"{screen.fold(name)}\0{born}")

    def new_uid(self, raw: bytes) -> bytes:
        """Replacement of one UID; registered ones stay."""
        text = raw.strip(_BLANK).decode("ascii", "replace")
        if not text or screen.well_known(text):
            return raw
        fresh = pseudonym.replacement_uid(self.keyring, text).encode()
        self.written.add(fresh)
        return fresh

    def encode(self, elements: list[Element]) -> list[tuple[int, bytes]]:
        """(tag, encoded element) of what the rules keep, in ascending order of tags, duplicates dropped."""
        out: list[tuple[int, bytes]] = []
        add, rules, counts, buffer = out.append, self.rules, self.counts, self.buffer
        last = -1
        ordered, windowed = True, True
        for element in elements:
            tag = element.tag
            rule = rules.get(tag)
            if rule is None:
                counts["X"] += 1
                continue
            action = rule.action
            value = action.value(element, rule, self)
            if value is None:
                counts["X"] += 1
                windowed = windowed and tag not in WINDOW
                continue
            counts[action.code] += 1
            if tag <= last:
                ordered = False
            last = tag
            if element.fragments:
                add((tag, value))  # a whole element of undefined length
            elif value is actions.COPY:
                vr = element.vr if element.vr in rule.vrs else rule.vrs[0]
                add((tag, copied(buffer, element, vr, explicit=self.explicit)))
            else:
                vr = b"SQ" if element.items is not None else element.vr if element.vr in rule.vrs else rule.vrs[0]
                add((tag, encode(tag, vr, value, explicit=self.explicit)))
        if self.keeps_private:
            kept = private.keep(elements, self)
            out += kept
            ordered = ordered and not kept
        if not windowed:  # half of a window shows something else
            out = [piece for piece in out if piece[0] not in WINDOW and piece[0] != WINDOW_EXPLANATION]
        return out if ordered else sorted(dict(reversed(out)).items())

    def items(self, items: list[list[Element]]) -> bytes | None:
        """Encoded items of a sequence with what the rules leave of each; `None` where nothing is left."""
        out = []
        for item in items:
            if any(element.tag in (CODE_VALUE, LONG_CODE) for element in item):
                content = self._coded(item)
            else:
                content = b"".join(piece for _, piece in self.encode(item))
            if content:
                out.append(encode_item(content))
        return b"".join(out) if out or not items else None

    def _coded(self, item: list[Element]) -> bytes:
        """A coded entry: public codes stay with their meaning, others go."""
        value = scheme = ""
        for element in item:
            if element.tag in (CODE_VALUE, LONG_CODE):
                value = self.buffer[element.start : element.stop].strip(_BLANK).decode("ascii", "replace")
            elif element.tag == CODE_SCHEME:
                scheme = self.buffer[element.start : element.stop].strip(_BLANK).decode("ascii", "replace")
        meaning = codes.known_codes().get((scheme, value))
        if meaning is None:
            self.counts["X"] += 1
            return b""
        self.kept.add(screen.fold(value))
        fixed = (CODE_VALUE, LONG_CODE, CODE_SCHEME)
        rest = [element for element in item if element.tag not in fixed]
        pieces = dict(self.encode(rest))
        for element in item:
            if element.tag in fixed:
                pieces[element.tag] = encode(
                    element.tag,
                    b"UC" if element.tag == LONG_CODE else b"SH",
                    (scheme if element.tag == CODE_SCHEME else value).encode(),
                    explicit=self.explicit,
                )
        said = pieces.get(CODE_MEANING, actions.DUMMY[b"LO"])
        if meaning and actions.DUMMY[b"LO"] in said:
            pieces[CODE_MEANING] = encode(
                CODE_MEANING, b"LO", meaning.encode("ascii", "ignore")[:64], explicit=self.explicit
            )
        return b"".join(piece for _, piece in sorted(pieces.items()))

    def unknown_concept(self) -> bytes:
        """The item that stands for a removed concept: the public code for "unknown"."""
        scheme, value, meaning = codes.UNKNOWN
        self.written.update((value.encode(), screen.fold(meaning).encode()))
        entry = ((CODE_VALUE, b"SH", value), (CODE_SCHEME, b"SH", scheme), (CODE_MEANING, b"LO", meaning))
        return encode_item(b"".join(encode(tag, vr, text.encode(), explicit=self.explicit) for tag, vr, text in entry))

    def pixels(self, element: Element) -> bytes | None:
        """Pixel data to its computed length; of compressed frames only what a decoder reads; none inside of items."""
        if element is not self.top.get(element.tag):
            return None
        if element.fragments:
            return frames.clean_fragments(self, element)
        expected = frames.native_bytes(self, element.tag)
        if not expected and element.stop > element.start:
            raise BadInstance("CORRUPT_PIXELS", "there is pixel data without a description of its frames")
        if element.stop - element.start < expected - 1:
            raise BadInstance("TRUNCATED", "there is less pixel data than the header says")
        if frames.overlay_in_pixels(self):
            return frames.image_bits(self, self.buffer[element.start : element.start + expected])
        if element.stop - element.start > expected:
            return self.buffer[element.start : element.start + expected]
        return actions.COPY


@functools.lru_cache(maxsize=64)
def _listed(profile: Profile) -> dict[int, bool]:
    """Tags whose values identify, by Table E.1-1 and not retained by the profile; and whether they are ids."""
    return {
        int(row.pattern, 16): _ID_KEYWORD.search(row.keyword) is not None
        for row in table.rows()
        if "x" not in row.pattern
        and row.pattern != table.PRIVATE_PATTERN
        and profile.rules[int(row.pattern, 16)].action not in (actions.KEEP, actions.KEEP_TERM)
    }


def deidentify(
    data: bytes,
    *,
    profile: Profile,
    keyring: Keyring,
    reviewed: bool | Collection[str] = False,
    cuts: Mapping[str, Shear] | None = None,
    sha256: str | None = None,
) -> DeidentifiedInstance:
    """De-identify one instance: `data` is a Part 10 file or a bare dataset, the result a Part 10 file.

    `cuts` has, for the option clean-recognizable-visual-features, where the face of each series (by pseudonymous
    key) is cut away, see `deface.plan`; an instance that holds a whole volume finds its own. `reviewed` are the
    reasons that somebody released it for, true for all: who looked for text has not said that there is no face.
    `sha256` is the digest of `data` where the caller has it: hashing is a tenth of the work on a CT.

    Raises `BadInstance`: NOT_DICOM, TRUNCATED, BAD_LENGTH, TOO_DEEP, TOO_MANY_ELEMENTS, BOMB, CORRUPT_HEADER,
    BAD_UID, NO_PATIENT, NO_PIXELS for waveforms, UNSUPPORTED for documents and
    indexes, RESIDUE when an original value is still in the bytes, and with the
    option clean-pixel-data BURNED_IN when text in the image cannot be excluded, or with
    clean-recognizable-visual-features FACE where a face cannot be cut away, unless it was `reviewed`.
    """
    source = take_apart(data)
    if source.big_endian:
        source = take_apart(little_endian(source))
    _refuse_hollow(source)
    work = Work(source, profile, keyring)
    uids = work.uid(SOP_INSTANCE), work.uid(SERIES), work.uid(STUDY)
    pieces = dict(work.encode(source.elements))
    pieces |= _marks(profile, explicit=source.explicit)
    body = [pieces[tag] for tag in sorted(pieces)]
    meta = _meta(work, uids[0])
    result = b"".join((meta, *body))
    _refuse_residue(work, pieces, meta)
    if "clean-pixel-data" in profile.options:
        result = _clean_pixels(result, reviewed=_released(reviewed, "BURNED_IN"))
    series_key = pseudonym.series_key(keyring, uids[1])
    if "clean-recognizable-visual-features" in profile.options:
        cut = (cuts or {}).get(series_key)
        result = _clean_face(result, data, cut, reviewed=_released(reviewed, "FACE"))
    return DeidentifiedInstance(
        data=result,
        instance_key=pseudonym.instance_key(keyring, uids[0]),
        series_key=series_key,
        study_key=pseudonym.study_key(keyring, uids[2]),
        patient_key=work.patient.key,
        source_sha256=sha256 or hashlib.sha256(data).hexdigest(),
        actions=dict(sorted(work.counts.items())),
        profile=profile.name,
        profile_digest=profile.digest,
        date_shift_days=work.patient.date_shift_days,
        origin=work.origin,
    )


def _refuse_hollow(source: Source) -> None:
    """Refuse what would be an empty shell: its one content is of a kind that nobody can clean (docs/adr/0047)."""
    top = {element.tag: element for element in source.elements}
    named = top.get(SOP_CLASS)
    kind = source.buffer[named.start : named.stop].strip(_BLANK).decode("ascii", "replace") if named else ""
    if kind == MEDIA_INDEX or DIRECTORY in top:
        raise BadInstance("UNSUPPORTED", "an index of a medium is no instance: its entries name patients and files")
    if kind.startswith(DOCUMENT_CLASSES):
        raise BadInstance("UNSUPPORTED", "a document inside an instance cannot be cleaned, and nothing else is in it")
    if WAVEFORMS in top and not PIXEL_DATA & top.keys():
        raise BadInstance("NO_PIXELS", "waveforms are not kept, and without them nothing is left of the instance")


def _clean_pixels(data: bytes, *, reviewed: bool) -> bytes:
    """`data` without burned-in text."""
    from pydicom import dcmread

    from medgan.deid import burned_in

    return burned_in.clean(data, dcmread(io.BytesIO(data)), reviewed=reviewed)


def _released(reviewed: bool | Collection[str], reason: str) -> bool:
    return reviewed if isinstance(reviewed, bool) else reason in reviewed


def _clean_face(result: bytes, data: bytes, cut: Shear | None, *, reviewed: bool) -> bytes:
    """`result` without the face of a head; as it is only where none can be cut and somebody looked."""
    from medgan.archive import instance
    from medgan.deid import deface

    try:
        return deface.clean(result, instance.parse(data), cut)
    except BadInstance as refusal:
        if reviewed and refusal.reason == "FACE":
            return result
        raise
    except MedganError:
        raise
    except Exception:  # noqa: BLE001 - whatever a hostile header makes a library raise, its text may quote values
        raise BadInstance("FACE", "its geometry cannot be read, so its face cannot be cut away safely") from None


def _refuse_residue(work: Work, pieces: dict[int, bytes], meta: bytes) -> None:
    """Raise `BadInstance` RESIDUE when an original value is in the output."""
    originals = work.originals
    if "uids" in work.profile.options:
        originals.uids.clear()
    if work.profile.dates == "UNMODIFIED":
        originals.dates.clear()
    elif work.profile.dates == "MODIFIED":
        originals.dates = {date for date in originals.dates if b"." not in date}
    header = meta + b"".join(piece for tag, piece in pieces.items() if tag not in PIXEL_DATA)
    pixels = b"".join(piece for tag, piece in pieces.items() if tag in PIXEL_DATA)
    kind = verify.residue(verify.Output.of(header, pixels), originals, written=work.written, kept=work.kept)
    if kind:
        raise BadInstance("RESIDUE", f"an original value ({kind}) is still in the output")


@functools.lru_cache(maxsize=64)
def _marks(profile: Profile, *, explicit: bool) -> dict[int, bytes]:
    """The marks of PS3.15 E.1.1: who was removed, how, and what became of dates."""

    def code(name: str) -> bytes:
        value, meaning = METHODS[name]
        return encode_item(
            encode(CODE_VALUE, b"SH", value.encode(), explicit=explicit)
            + encode(CODE_SCHEME, b"SH", b"DCM", explicit=explicit)
            + encode(CODE_MEANING, b"LO", meaning.encode()[:64], explicit=explicit)
        )

    names = ("basic", *profile.options)
    method = [f"medgan {VERSION}", f"PS3.15 {profile.edition} Table E.1-1", *names]
    return {
        0x00120062: encode(0x00120062, b"CS", b"YES", explicit=explicit),
        0x00120063: encode(0x00120063, b"LO", "\\".join(method).encode(), explicit=explicit),
        0x00120064: encode(0x00120064, b"SQ", b"".join(map(code, names)), explicit=explicit),
        0x00280303: encode(0x00280303, b"CS", profile.dates.encode(), explicit=explicit),
    }


def _meta(work: Work, instance_uid: str) -> bytes:
    """Preamble of zeros and fresh file meta information (PS3.10 7.1)."""
    syntax = work.source.transfer_syntax
    if syntax in (DEFLATED, EXPLICIT_BIG) or not frames.known_syntax(syntax):
        syntax = EXPLICIT_LITTLE
    if syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
        syntax = EXPLICIT_LITTLE if work.explicit else IMPLICIT_LITTLE
    instance = instance_uid.encode()
    if "uids" not in work.profile.options:
        instance = work.new_uid(instance)
    elements = b"".join(
        encode(tag, vr, value, explicit=True)
        for tag, vr, value in (
            (0x00020001, b"OB", b"\0\1"),
            (0x00020002, b"UI", work.new_uid(work.raw(SOP_CLASS))),
            (0x00020003, b"UI", instance),
            (0x00020010, b"UI", syntax.encode()),
            (0x00020012, b"UI", IMPLEMENTATION_UID),
            (0x00020013, b"SH", IMPLEMENTATION_NAME),
        )
    )
    length = encode(0x00020000, b"UL", len(elements).to_bytes(4, "little"), explicit=True)
    return bytes(128) + b"DICM" + length + elements
