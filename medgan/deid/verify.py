"""The last look: are original values of this instance in the bytes that are about to be written?

The verifier does not trust the rules. It collects, in memory only, what the source said (names, ids, dates,
UIDs, addresses, free text, private text, at every depth) and searches the output bytes for each, as found and as
UTF-8, UTF-16 LE and BE, in upper and lower case, person names with `^`, `_`, `,` or space between components.

Not searched, because they would be found in clean files: values shorter than 4 characters; texts that
consist of words of the technical vocabulary ("BRAIN", "SIEMENS"); decimal numbers, and integers of up to 5 digits
unless they are an id; values of attributes that the profile keeps; dates and times that the profile has just written.
The whole rule is `Collector`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from medgan.archive import charsets
from medgan.deid import screen
from medgan.deid.elements import Element
from medgan.deid.screen import fold
from medgan.deid.table import PERSONS, standard_vr

MIN_CHARACTERS = 4
MIN_NAME_LETTERS = 4
MIN_PIXEL_CHARACTERS = 6
MAX_CHARACTERS = 1024
MANY = 1000
MAX_VALUE_BYTES = 4096
_SEPARATORS = b"^_=,\\"
_FOLD = bytes.maketrans(bytes(range(0x41, 0x5B)) + _SEPARATORS, bytes(range(0x61, 0x7B)) + b" " * len(_SEPARATORS))
_SPACES = re.compile(rb" {2,}")
_DECIMAL = re.compile(r"[+-]?\d*\.\d*(?:[eE][+-]?\d+)?|[+-]?\d{1,5}")
_FINE_TIME = re.compile(r"\d{6}\.\d{3,6}")
_TOKEN = re.compile(r"(?<!\w)\w*\d{5,}\w*|(?<!\S)\S+@\S+")  # from where a word begins: in one pass
_TEXT_VRS = frozenset((b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"UR", b"AE", b"CS"))
_DATE_VRS = frozenset((b"DA", b"DT", b"TM"))
_GRAM_BYTES, _HASH_BITS, _WORD = 4, 24, 0xFFFFFFFF
_MULTIPLIER = 2_654_435_761  # Knuth's multiplicative hash: 2^32 by the golden ratio
_BLANK = b" \0"


@dataclass(slots=True)
class Originals:
    """What the source said: `texts`, `ids`, `names` and `weak` (private) are folded, the others bytes as found."""

    texts: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    uids: set[bytes] = field(default_factory=set)
    dates: set[bytes] = field(default_factory=set)
    encoded: set[bytes] = field(default_factory=set)
    pixels: set[bytes] = field(default_factory=set)
    weak: set[str] = field(default_factory=set)


class Collector:
    """Gathers `Originals` from elements of one instance."""

    def __init__(self, buffer: bytes, character_sets: bytes) -> None:
        """Read values from `buffer` by the values of SpecificCharacterSet."""
        self.buffer = buffer
        self.character_sets = character_sets
        self.found = Originals()

    def collect(self, elements: Iterable[Element], *, listed: Mapping[int, bool]) -> None:
        """Add the values of `elements` at every depth.

        `listed` has the tags that are identifying by the profile's table, and whether each is an id.
        """
        for element in elements:
            if element.items is not None:
                for item in element.items:
                    self.collect(item, listed=listed)
            elif element.start < element.stop <= element.start + MAX_VALUE_BYTES:
                self._collect_value(element, listed)

    def _collect_value(self, element: Element, listed: Mapping[int, bool]) -> None:
        vr, tag = element.vr, element.tag
        if vr == b"UN" or tag in PERSONS:
            vr = standard_vr(tag)  # sent as unknown, or a person's name that was sent as another text
        if vr in _TEXT_VRS:
            if tag in listed:
                self.add_text(self._raw(element), self.found.texts, is_id=listed[tag])
            elif tag >> 16 & 1:
                self.add_text(self._raw(element), self.found.weak)
        elif vr == b"UI":
            self.add_uids(self._raw(element))
        elif vr in _DATE_VRS:
            self.add_dates(vr, self._raw(element))
        elif vr == b"PN":
            self.add_name(self._raw(element))
        elif vr == b"UN" and tag >> 16 & 1:
            self.add_unknown(self._raw(element))

    def _raw(self, element: Element) -> bytes:
        return self.buffer[element.start : element.stop]

    def text_of(self, raw: bytes) -> str:
        """`raw` decoded by the instance's character sets; what does not decode becomes U+FFFD."""
        if not charsets.is_plain(raw):
            self.encoded_as_found(raw)
        return charsets.text_of(raw, self.character_sets)

    def encoded_as_found(self, raw: bytes) -> None:
        """Remember non-ASCII bytes (ISO 2022 and others) as they stand."""
        for part in re.split(rb"[\^=\\ ]+", raw.strip(_BLANK)):
            if len(part) >= MIN_CHARACTERS and not charsets.is_plain(part):
                self.found.encoded.add(part)

    def add_name(self, raw: bytes) -> None:
        """A person name: its components, and all of it."""
        text = self.text_of(raw)
        for group in re.split(r"[=\\]", text):
            folded = fold(group)
            if len(folded) >= MIN_CHARACTERS:
                self.found.texts.add(folded)
            self.found.names.update(word for word in re.split(r"[\s\-.']+", folded) if len(word) > 1)
        stripped = raw.strip(_BLANK)
        if len(stripped) >= MIN_PIXEL_CHARACTERS and not technical(fold(text)):
            self.found.pixels.add(stripped)

    def add_uids(self, raw: bytes) -> None:
        """UIDs that name things."""
        for part in raw.strip(_BLANK).split(b"\\"):
            if len(part) > MIN_PIXEL_CHARACTERS and not screen.well_known(part.decode("ascii", "replace")):
                self.found.uids.add(part)

    def add_text(self, raw: bytes, into: set[str], *, is_id: bool = False) -> None:
        """Text: the value, and what in a long one looks like a number of something or somebody."""
        for text in self.text_of(raw).split("\\"):
            value = fold(text[:MAX_CHARACTERS])
            if is_id and len(value) > MIN_CHARACTERS and any(map(str.isdigit, value)):
                self.found.ids.add(value)
            if len(value) < MIN_CHARACTERS or _DECIMAL.fullmatch(value) or technical(value):
                continue
            into.add(value)
            into.update(token for token in _TOKEN.findall(value) if not _DECIMAL.fullmatch(token))

    def add_dates(self, vr: bytes, raw: bytes) -> None:
        """Whole dates, and times with fractions of a second."""
        for part in raw.strip(_BLANK).split(b"\\"):
            digits = part.replace(b".", b"") if vr == b"DA" else part
            if vr != b"TM" and digits[:8].isdigit() and len(digits) >= 8:  # noqa: PLR2004 - YYYYMMDD
                self.found.dates.add(digits[:8])
            elif vr == b"TM" and _FINE_TIME.fullmatch(part.decode("ascii", "replace")):
                self.found.dates.add(part)

    def add_unknown(self, raw: bytes) -> None:
        """A private value of unknown type that is readable."""
        stripped = raw.strip(_BLANK)
        if stripped.isascii() and stripped.decode("ascii").isprintable():
            self.add_text(stripped, self.found.weak)


@dataclass(frozen=True, slots=True)
class Output:
    """What is about to be written: `header` is everything but pixel data, with its folded and its narrowed form."""

    header: bytes
    folded: bytes
    narrow: bytes
    pixels: bytes

    @classmethod
    def of(cls, header: bytes, pixels: bytes) -> Output:
        """Fold case and separators; narrowing drops zero bytes, so that UTF-16 reads as ASCII."""
        folded = header.translate(_FOLD)
        narrow = folded.replace(b"\0\0", b"\1\1").replace(b"\0", b"")
        return cls(header, _SPACES.sub(b" ", folded), _SPACES.sub(b" ", narrow), pixels)


def residue(output: Output, originals: Originals, *, written: set[bytes], kept: set[str]) -> str:
    """Kind of the first original value found in the output (`text`, `name`, `uid`, `date`, `pixels`), or empty.

    `written` are dates, times and UIDs that the profile itself wrote, `kept` folded values that it kept by rule.
    """
    ours = {value.decode("ascii", "replace") for value in written}
    texts = (originals.texts | originals.ids | (originals.weak - kept)) - ours
    names = {name for name in originals.names - ours if len(name) >= MIN_NAME_LETTERS and not technical(name)}
    uids, dates = originals.uids - written, originals.dates - written
    encoded = originals.encoded
    if len(texts) + len(names) + len(uids) + len(dates) + len(encoded) > MANY:
        grams = _Grams(output)
        texts, names = set(filter(grams.may_say, texts)), set(filter(grams.may_say, names))
        uids, dates, encoded = (set(filter(grams.may_hold, found)) for found in (uids, dates, encoded))
    searches = (
        ("text", any(_has_text(text, output) for text in texts)),
        ("text", any(raw in output.header for raw in encoded)),
        ("name", any(_has_text(name, output) for name in names)),
        ("uid", any(_has_digits(uid, output) for uid in uids)),
        ("date", any(_has_digits(date, output) for date in dates)),
        ("pixels", any(raw in output.pixels for raw in originals.pixels)),
    )
    return next((kind for kind, found in searches if found), "")


class _Grams:
    """Which runs of four bytes an output holds, by a hash: what has one that it lacks need not be searched for.

    It decides nothing: a hundred thousand originals in a large output would otherwise take a search each.
    """

    def __init__(self, output: Output) -> None:
        """Of the header and of its folded and narrowed forms."""
        self._found = np.zeros(1 << _HASH_BITS, np.bool_)
        for hay in (output.header, output.folded, output.narrow):
            for start in range(min(_GRAM_BYTES, len(hay))):
                grams = np.frombuffer(hay, "<u4", (len(hay) - start) // _GRAM_BYTES, start)
                self._found[grams * np.uint32(_MULTIPLIER) >> np.uint32(32 - _HASH_BITS)] = True

    def may_hold(self, needle: bytes) -> bool:
        """Whether every run of four bytes of `needle` occurs."""
        return all(
            self._found[
                (int.from_bytes(needle[at : at + _GRAM_BYTES], "little") * _MULTIPLIER & _WORD) >> 32 - _HASH_BITS
            ]
            for at in range(len(needle) - _GRAM_BYTES + 1)
        )

    def may_say(self, text: str) -> bool:
        """Whether a folded text may stand in the output in one of the forms that are searched."""
        return any(map(self.may_hold, (text.encode(),) if text.isascii() else _forms(text)))


def technical(folded: str) -> bool:
    """Whether a folded value consists of the technical vocabulary and so says nothing of anybody."""
    return screen.text_passes(folded, frozenset())


def _has_text(text: str, output: Output) -> bool:
    if not text.isascii():
        return any(raw in output.header for raw in _forms(text))
    raw = text.encode("ascii")
    if raw.isdigit():
        return _has_digits(raw, output)
    if raw in output.folded and _stands_alone(raw, output.folded):
        return True
    # the low byte of a length may be glued to the begin of UTF-16, so only short needles have to stand alone there
    short = len(raw) < MIN_PIXEL_CHARACTERS
    return raw in output.narrow and _stands_alone(raw, output.narrow, before=short)


def _stands_alone(raw: bytes, hay: bytes, *, before: bool = True) -> bool:
    """Whether `raw` occurs without a letter or digit glued to its end ("ultr" is not in "ultra"), or `before` it."""
    return re.search((rb"(?<![a-z0-9])" if before else b"") + re.escape(raw) + rb"(?![a-z0-9])", hay) is not None


def _forms(text: str) -> set[bytes]:
    """Non-ASCII `text` in every encoding and case that is searched."""
    cases = {text, text.lower(), text.upper(), text.title(), text.title().replace(" ", "^")}
    return {case.encode(encoding) for case in cases for encoding in ("utf-8", "utf-16-le", "utf-16-be")}


def _has_digits(raw: bytes, output: Output) -> bool:
    """Whether a number, date or UID stands alone: not inside a longer number, not behind a decimal point."""
    for hay in (output.header, output.narrow):
        if raw in hay and re.search(rb"(?<![0-9])(?<![0-9]\.)" + re.escape(raw) + rb"(?![0-9])", hay):
            return True
    return False
