"""What can happen to an attribute: one small class an action, and each says what it does.

`value` gets the element, its rule and the work on one instance, and returns the new value in little-endian
bytes, `COPY` for the bytes as they stand, or `None` when the element goes. `sentence` is what
`medgan deid explain` prints. Codes are those of PS3.15 Table E.1-1a.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from medgan.deid import dates, measures, screen, table
from medgan.deid.elements import Element
from medgan.errors import BadInstance

if TYPE_CHECKING:
    from medgan.deid.apply import Work

COPY: Final = b"\0copy"
"""Sentinel, compared by identity: take the value as it stands."""

NUMBER_BYTES = {b"US": 2, b"SS": 2, b"AT": 4, b"UL": 4, b"SL": 4, b"FL": 4, b"FD": 8, b"SV": 8, b"UV": 8}
_FEWEST_LETTERS = 6
# So many bytes of real numbers are never letters by chance; integers have zeros above them.
LETTERS_OF_NUMBERS = {b"FL": 12, b"FD": 8}
TOP_AGE = b"090Y"
_OFFSETS = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))  # what a text would mean as an offset lies beyond the file
DUMMY_DATE, DUMMY_TIME = b"19000101", b"000000"
DUMMY = {
    **dict.fromkeys((b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"PN", b"AE", b"CS"), b"DEIDENTIFIED"),
    b"DA": DUMMY_DATE,
    b"TM": DUMMY_TIME,
    b"DT": DUMMY_DATE + DUMMY_TIME,
    b"AS": b"000Y",
    **dict.fromkeys((b"DS", b"IS"), b"0"),
    **{vr: bytes(size) for vr, size in NUMBER_BYTES.items()},
    **dict.fromkeys((b"OB", b"OW", b"UN"), b"\0\0"),
    **dict.fromkeys((b"OF", b"OL"), bytes(4)),
    **dict.fromkeys((b"OD", b"OV"), bytes(8)),
}
# YYYYMMDD, HHMMSS, HHMM, and whole values: what a written date or time may share with an original text.
_DATE_PREFIXES = (4, 6, 8, None)
_BLANK = b" \0"
_COILS = frozenset(("ReceiveCoilName", "TransmitCoilName", "MultiCoilElementName"))  # may be a serial number
RESCALING: Final = 0x00289145  # PixelValueTransformationSequence
# Of type 1 in content items and annotations (PS3.3 C.17.3, C.10.10): measurement units, concept name, concept.
CONCEPTS = frozenset((0x004008EA, 0x0040A043, 0x0040A168))
_TEXT_VRS = frozenset((b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"CS", b"PN", b"AE"))


class Rule(NamedTuple):
    """What a profile does to one attribute.

    `vrs` are those it may have, the first being preferred; 0 values is any number; no number is larger than `bound`.
    """

    tag: int
    keyword: str
    vrs: tuple[bytes, ...]
    max_values: int
    action: Action
    bound: table.Bound = table.Bound()


class Action(ABC):
    """Base: `code` counts in the audit."""

    code: ClassVar[str] = ""
    sentence: ClassVar[str] = ""

    @abstractmethod
    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """New value, `COPY`, or `None` for removal."""


class Remove(Action):
    """X."""

    code = "X"
    sentence = "is removed"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Nothing stays."""
        del element, rule, work
        return None


class Empty(Action):
    """Z."""

    code = "Z"
    sentence = "is emptied"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Zero length; a sequence without items."""
        del element, rule, work
        return b""


class Dummy(Action):
    """D."""

    code = "D"
    sentence = "is replaced by a fixed dummy of its type; a sequence keeps its items, each cleaned by these rules"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The dummy of the attribute's VR; what was empty stays empty."""
        if element.items is not None:
            return work.items(element.items)
        if element.start == element.stop:
            return b""
        return DUMMY.get(rule.vrs[0])


class Pseudonym(Action):
    """Z, with the non-empty value that PS3.15 allows."""

    code = "Z"
    sentence = "is replaced by the patient's keyed pseudonym"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The patient's handle."""
        del element, rule
        return work.patient.key.encode()


class NewUid(Action):
    """U."""

    code = "U"
    sentence = "is replaced by a keyed UID, the same for the same original; registered UIDs of classes stay"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Each UID of the value replaced."""
        del rule
        if element.items is not None:
            return work.items(element.items)
        raw = work.buffer[element.start : element.stop].strip(_BLANK)
        return b"\\".join(work.new_uid(uid) for uid in raw.split(b"\\")) if raw else b""


class CleanItems(Action):
    """C, or X/Z/U*, of a sequence."""

    code = "C"
    sentence = "keeps its items, each cleaned by these rules"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Items with what these rules leave of them; gone when there are none."""
        del rule
        if element.items is None:
            return None
        return work.items(element.items)


class Keep(Action):
    """K, by an option that retains the attribute as it is."""

    code = "K"
    sentence = "is kept"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The value itself."""
        if element.items is not None:
            return work.items(element.items)
        if rule.vrs[0] == b"UI":
            uids = work.buffer[element.start : element.stop].strip(_BLANK).split(b"\\")
            if not all(screen.UID_PATTERN.fullmatch(uid.decode("ascii", "replace")) for uid in uids if uid):
                return NEW_UID.value(element, rule, work)
            work.written.update(uids)
        return COPY


class KeepTerm(Action):
    """K of a code string."""

    code = "K"
    sentence = "is kept where it is a code string of technical words, or a device's; another value becomes OTHER"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Values of PS3.5 6.2, CS, and single small letters, which real archives have; a family's name is none."""
        parts = work.buffer[element.start : element.stop].strip(_BLANK).split(b"\\")
        return b"\\".join(part if self._passes(part, rule) else b"OTHER" for part in parts)

    def _passes(self, part: bytes, rule: Rule) -> bool:
        if screen.TERM.fullmatch(part) is None:
            return False
        return len(part) == 1 or "Device" in rule.keyword or screen.code_passes(part)


class KeepAge(Action):
    """K of an age."""

    code = "K"
    sentence = "is kept when it is an age; whoever is older than 89 is 90"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The age, with everybody over 89 in one class (45 CFR 164.514(b)(2)(i)(C))."""
        del rule
        raw = work.buffer[element.start : element.stop].strip(_BLANK)
        if not screen.age_passes(raw):
            return DUMMY[b"AS"]
        return TOP_AGE if raw.endswith(b"Y") and raw[:3] > TOP_AGE[:3] else raw


class ShiftDate(Action):
    """C of the Modified Dates option."""

    code = "C"
    sentence = "moves by the patient's keyed number of days, so that every interval stays exact"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Each DA, DT or TM moved; a value that is no date goes."""
        if element.items is not None:
            return work.items(element.items)
        shift = {b"DA": dates.shift_date, b"DT": dates.shift_datetime}.get(rule.vrs[0], dates.keep_time)
        days = work.patient.date_shift_days
        moved = [shift(part, days) for part in work.buffer[element.start : element.stop].split(b"\\")]
        if any(part is None for part in moved):
            return DUMMY.get(rule.vrs[0])
        written = [part for part in moved if part is not None]
        work.written.update(part[:size] for part in written for size in _DATE_PREFIXES)
        return b"\\".join(written)


class KeepDate(Action):
    """K of the Full Dates option."""

    code = "K"
    sentence = "is kept when it is a date or time of its type"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The value as it stands."""
        if element.items is not None:
            return work.items(element.items)
        parts = work.buffer[element.start : element.stop].strip(_BLANK).split(b"\\")
        grammar = {b"DA": dates.shift_date, b"DT": dates.shift_datetime}.get(rule.vrs[0], dates.keep_time)
        if any(grammar(part, 0) is None for part in parts):
            return DUMMY.get(rule.vrs[0])
        work.written.update(part[:size] for part in parts for size in _DATE_PREFIXES)
        return COPY


class CleanText(Action):
    """C of descriptions."""

    code = "C"
    sentence = "keeps the words of the technical vocabulary and loses every other word, number and date"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Cleaned text; a value of another kind passes by the rule of its VR."""
        if element.items is not None:
            return work.items(element.items)
        if rule.vrs[0] not in _TEXT_VRS:
            return KEEP_BY_VR[rule.vrs[0]].value(element, rule, work) if rule.vrs[0] in KEEP_BY_VR else None
        text = work.text(element)
        cleaned = "\\".join(screen.clean_text(part, work.names) for part in text.split("\\"))
        written = cleaned.encode("ascii", "ignore")
        work.written.add(screen.fold(cleaned).encode("ascii", "ignore"))
        return written


class CleanNeededText(CleanText):
    """C of text that an object cannot do without."""

    sentence = CleanText.sentence + "; text of which nothing is left is replaced by a fixed dummy"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Cleaned text, never empty."""
        return super().value(element, rule, work) or DUMMY[b"LO"]


class KeepNumber(Action):
    """An attribute outside the table, of a numeric VR."""

    code = "K"
    sentence = (
        "is kept when it is a number of its type and multiplicity, and no larger than the attribute's can be; "
        "of large amounts five digits stay"
    )

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Binary numbers of the right size and count, that are no letters."""
        length = element.stop - element.start
        vr = element.vr if element.vr in rule.vrs else rule.vrs[0]
        size = NUMBER_BYTES.get(vr)
        if size is None or length % size or (rule.max_values and length > size * rule.max_values):
            return None
        raw = work.buffer[element.start : element.stop]
        long = length >= LETTERS_OF_NUMBERS.get(vr, _FEWEST_LETTERS)
        if element.vr in _TEXT_VRS or (long and screen.spells(raw, size if vr in LETTERS_OF_NUMBERS else 1)):
            return None
        kept = measures.binary(raw, vr, rule.bound)
        return COPY if kept is raw else kept


class KeepNumberText(Action):
    """An attribute outside the table, DS or IS."""

    code = "K"
    sentence = (
        "is kept when it reads as numbers, none of them larger than the attribute's can be; "
        "of large amounts five digits stay"
    )

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Decimal and integer strings by their grammar and size; without a rescaling that is none, no pixel is true.

        What pixels mean is said at the top and in a pixel value transformation; elsewhere a rescaling may be lost.
        """
        raw = work.buffer[element.start : element.stop].strip(_BLANK)
        kept = measures.decimal(raw, rule.bound) if screen.NUMBERS.fullmatch(raw) else None
        if kept is not None:
            return COPY if kept is raw else kept
        if rule.bound.lost == "refuse" and (work.within == RESCALING or work.top.get(element.tag) is element):
            raise BadInstance("CORRUPT_HEADER", "what pixel values mean, or how many there are, is said by no number")
        return b"" if rule.bound.lost == "empty" else None


class KeepCode(Action):
    """An attribute outside the table, CS."""

    code = "K"
    sentence = "is kept when it consists of defined terms; an unknown term becomes OTHER"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Code strings by grammar and vocabulary."""
        del rule
        raw = work.buffer[element.start : element.stop]
        if screen.code_passes(raw):
            return COPY
        parts = raw.strip(_BLANK).split(b"\\")
        return b"\\".join(part if screen.code_passes(part) else b"OTHER" for part in parts)


class KeepWords(Action):
    """An attribute outside the table, free text."""

    code = "K"
    sentence = (
        "is kept when all its words are technical and nothing in it looks like a name, number or date, else replaced"
    )

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Text by vocabulary; serial numbers are let through where the attribute names a coil."""
        raw = work.buffer[element.start : element.stop].strip(_BLANK)
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            return DUMMY[b"LO"]
        if not screen.text_passes(text, work.names, numbers=rule.keyword in _COILS):
            return DUMMY[b"LO"]
        work.kept.add(text.lower())
        return COPY


class KeepPeople(KeepWords):
    """K of an ethnic group."""

    sentence = "is kept when all its words are technical or of groups of people, else replaced"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The value as it stands, or a dummy."""
        del rule
        text = work.text(element)
        strange = screen.PEOPLES.sub(lambda group: group[0] if group[0].lower() in work.names else " ", text)
        if not screen.text_passes(strange, work.names):
            return DUMMY[b"LO"]
        work.written.add(screen.fold(text).encode())
        return COPY


class KeepClassUid(Action):
    """An attribute outside the table, UI."""

    code = "K"
    sentence = "is kept when it names a class or syntax of the standard, and replaced by a keyed UID otherwise"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Registered UIDs."""
        return NEW_UID.value(element, rule, work)


class KeepItems(Action):
    """A sequence outside the table."""

    code = "K"
    sentence = (
        "keeps its items, each cleaned by these rules; coded entries stay when the code is known, "
        "and a concept that a content item cannot do without becomes Unknown"
    )

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Items with what these rules leave of them; a concept that goes says so where an object needs one."""
        del rule
        if element.items is None:
            return None
        outer, work.within = work.within, element.tag
        kept = work.items(element.items)
        work.within = outer
        return work.unknown_concept() if kept is None and element.tag in CONCEPTS else kept


class KeepBulk(Action):
    """Tables of numbers that the image needs."""

    code = "K"
    sentence = "is kept: the image cannot be shown without it"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """The bytes themselves; none of what begins or ends in a text, holds one, or is one, lines and all."""
        if rule.tag in _OFFSETS:
            raw = work.buffer[element.start : element.stop]
            numbers = memoryview(raw).cast("Q") if len(raw) % 8 == 0 else [1 << 63]
            return COPY if all(number <= len(work.buffer) for number in numbers) else None
        raw = work.buffer[element.start : element.stop].replace(b"\0", b" ").strip()
        if screen.text_at_an_end(raw) or screen.text_inside(raw):
            return None
        try:
            words = raw.decode().split()
        except UnicodeDecodeError:
            return COPY
        return None if words and all(word.isprintable() for word in words) else COPY


class KeepPixels(KeepBulk):
    """Pixel data."""

    sentence = "is kept to its computed length; comments inside compressed frames are blanked"

    def value(self, element: Element, rule: Rule, work: Work) -> bytes | None:
        """Native frames cut to their length, compressed ones without comment segments."""
        del rule
        return work.pixels(element)


REMOVE, EMPTY, DUMMY_VALUE, PSEUDONYM, NEW_UID = Remove(), Empty(), Dummy(), Pseudonym(), NewUid()
CLEAN_ITEMS, KEEP, CLEAN_TEXT, CLEAN_NEEDED_TEXT = CleanItems(), Keep(), CleanText(), CleanNeededText()
KEEP_DATE, SHIFT_DATE, KEEP_AGE, KEEP_TERM, KEEP_PEOPLE = KeepDate(), ShiftDate(), KeepAge(), KeepTerm(), KeepPeople()
KEEP_BY_RULE: Final[dict[str, Action]] = {
    "number": KeepNumber(),
    "number-text": KeepNumberText(),
    "code": KeepCode(),
    "words": KeepWords(),
    "uid": KeepClassUid(),
    "sequence": KeepItems(),
    "bulk": KeepBulk(),
    "pixels": KeepPixels(),
}
KEEP_BY_VR: Final[dict[bytes, Action]] = {
    **dict.fromkeys(NUMBER_BYTES, KEEP_BY_RULE["number"]),
    **dict.fromkeys((b"DS", b"IS"), KEEP_BY_RULE["number-text"]),
    b"CS": KEEP_BY_RULE["code"],
    b"UI": KEEP_BY_RULE["uid"],
}
