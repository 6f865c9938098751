"""The last look: are original values of this instance in the bytes that are about to be written?

The verifier does not trust the rules. It collects, in memory only, what the source said (names, ids, dates,
UIDs, addresses, free text, private text, at every depth) and searches the output bytes for each, as found and as
UTF-8, UTF-16 LE and BE, in upper and lower case, person names with `^`, `_`, `,` or space between components.

Not searched, because they would be found in clean files: values shorter than 4 characters; texts that
consist of words of the technical vocabulary ("BRAIN", "SIEMENS"); decimal numbers; values of attributes that the
profile keeps; dates that equal a date the shift has just written.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

from medgan.deid import screen
from medgan.deid.elements import Element

MIN_CHARACTERS = 4
MIN_NAME_LETTERS = 4
MIN_PIXEL_CHARACTERS = 6
MAX_CHARACTERS = 1024
_SEPARATORS = b"^_=,\\"
_FOLD = bytes.maketrans(bytes(range(0x41, 0x5B)) + _SEPARATORS, bytes(range(0x61, 0x7B)) + b" " * len(_SEPARATORS))
_DECIMAL = re.compile(r"[+-]?\d*\.\d*(?:[eE][+-]?\d+)?|[+-]?\d{1,5}")
_FINE_TIME = re.compile(r"\d{6}\.\d{3,6}")
_TOKEN = re.compile(r"\w*\d{5,}\w*|\S+@\S+")
_TEXT_VRS = frozenset((b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"UR", b"AE", b"CS"))
_BLANK = b" \0"


@dataclass(slots=True)
class Originals:
    """What the source said: `texts`, `names` and `ids` are folded or raw needles, `encoded` bytes as found."""

    texts: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    uids: set[bytes] = field(default_factory=set)
    dates: set[bytes] = field(default_factory=set)
    encoded: set[bytes] = field(default_factory=set)
    pixels: set[bytes] = field(default_factory=set)
    weak: set[str] = field(default_factory=set)


class Collector:
    """Gathers `Originals` from elements of one instance."""

    def __init__(self, buffer: bytes, character_sets: bytes) -> None:
        self.buffer = buffer
        self.character_sets = character_sets
        self.found = Originals()

    def collect(self, elements: Iterable[Element], *, listed: frozenset[int] | set[int]) -> None:
        """Add the values of `elements` at every depth; `listed` tags are identifying by the profile's table."""
        for element in elements:
            if element.items is not None:
                for item in element.items:
                    self.collect(item, listed=listed)
                continue
            vr, length = element.vr, element.stop - element.start
            if not length or length > MAX_CHARACTERS * 4:
                continue
            if vr == b"PN":
                self.add_name(self.buffer[element.start : element.stop])
            elif vr == b"UI":
                self.add_uids(self.buffer[element.start : element.stop])
            elif vr in _TEXT_VRS:
                if element.tag in listed or element.tag >> 16 & 1:
                    self.add_text(self.buffer[element.start : element.stop], weak=element.tag not in listed)
            elif vr in (b"DA", b"DT", b"TM"):
                self.add_dates(vr, self.buffer[element.start : element.stop])
            elif vr == b"UN" and element.tag >> 16 & 1:
                self.add_unknown(self.buffer[element.start : element.stop])

    def text_of(self, raw: bytes) -> str:
        """`raw` decoded by the instance's character sets; what does not decode becomes U+FFFD."""
        try:
            return raw.decode("ascii").strip(" \0")
        except UnicodeDecodeError:
            self.encoded_as_found(raw)
            return decode(raw, self.character_sets).strip(" \0")

    def encoded_as_found(self, raw: bytes) -> None:
        """Remember non-ASCII bytes (ISO 2022 and others) as they stand."""
        for part in re.split(rb"[\^=\\ ]+", raw.strip(_BLANK)):
            if len(part) >= MIN_CHARACTERS and not part.isascii():
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
        if len(stripped) >= MIN_PIXEL_CHARACTERS and not screen.text_passes(text.replace("^", " "), frozenset()):
            self.found.pixels.add(stripped)

    def add_uids(self, raw: bytes) -> None:
        """UIDs that name things."""
        for part in raw.strip(_BLANK).split(b"\\"):
            if len(part) > MIN_PIXEL_CHARACTERS and not screen.well_known(part.decode("ascii", "replace")):
                self.found.uids.add(part)

    def add_text(self, raw: bytes, *, weak: bool) -> None:
        """Text: the value, and what in a long one looks like a number of something or somebody."""
        for text in self.text_of(raw).split("\\"):
            value = text.strip()
            if len(value) < MIN_CHARACTERS or _DECIMAL.fullmatch(value) or screen.text_passes(value, frozenset()):
                continue
            needles = {value[:MAX_CHARACTERS]}
            if len(value) > MIN_PIXEL_CHARACTERS:
                needles |= {token for token in _TOKEN.findall(value) if not _DECIMAL.fullmatch(token)}
            folded = {fold(needle) for needle in needles}
            (self.found.weak if weak else self.found.texts).update(n for n in folded if len(n) >= MIN_CHARACTERS)

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
            self.add_text(stripped, weak=True)


def decode(raw: bytes, character_sets: bytes) -> str:
    """Text of `raw` by the values of SpecificCharacterSet; never raises."""
    from pydicom import charset

    names = [part.strip().decode("ascii", "replace") for part in character_sets.split(b"\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            encodings = charset.convert_encodings(names if len(names) > 1 else names[0] or None)
            return str(charset.decode_bytes(raw, encodings, {"\\", "^", "="}))
        except (LookupError, ValueError, AttributeError):
            return raw.decode("utf-8", "replace")


def fold(text: str) -> str:
    """Lower case, name separators as spaces."""
    return " ".join(re.sub(r"[\^_=,\\]", " ", text.lower()).split())


def residue(
    header: bytes, pixels: memoryview | bytes, originals: Originals, *, written: set[bytes], kept: set[str]
) -> str:
    """Kind of the first original value found in the output (`name`, `text`, `uid`, `date`, `pixels`), or empty.

    `header` is everything but the pixel data; `written` are dates and UIDs that the profile itself wrote, `kept`
    folded values that it kept by rule.
    """
    folded = header.translate(_FOLD)
    wide = folded.replace(b"\0", b"")
    for text in originals.texts:
        if _has_text(text, header, folded, wide):
            return "text"
    for text in originals.weak - originals.texts - kept:
        if _has_text(text, header, folded, wide):
            return "text"
    for name in originals.names:
        if (
            len(name) >= MIN_NAME_LETTERS
            and not screen.text_passes(name, frozenset())
            and _has_word(name, header, folded, wide)
        ):
            return "name"
    for raw in originals.encoded:
        if raw in header:
            return "text"
    for uid in originals.uids:
        if uid not in written and _has_digits(uid, header, wide):
            return "uid"
    for date in originals.dates:
        if date not in written and _has_digits(date, header, wide):
            return "date"
    body = bytes(pixels) if originals.pixels and not isinstance(pixels, bytes) else pixels
    if any(raw in body for raw in originals.pixels):  # type: ignore[operator]
        return "pixels"
    return ""


def _has_text(text: str, header: bytes, folded: bytes, wide: bytes) -> bool:
    if text.isascii():
        raw = text.encode("ascii")
        return any(raw in hay and _stands_alone(raw, hay) for hay in (folded, wide))
    return any(raw in header for raw in _forms(text))


def _stands_alone(raw: bytes, hay: bytes) -> bool:
    """Whether `raw` occurs without a letter or digit glued to its ends ("ultr" is not in "ultra")."""
    return re.search(rb"(?<![a-z0-9])" + re.escape(raw) + rb"(?![a-z0-9])", hay) is not None


def _forms(text: str) -> set[bytes]:
    """Non-ASCII `text` in every encoding and case that is searched."""
    cases = {text, text.lower(), text.upper(), text.title(), text.title().replace(" ", "^")}
    return {case.encode(encoding) for case in cases for encoding in ("utf-8", "utf-16-le", "utf-16-be")}


def _has_word(word: str, header: bytes, folded: bytes, wide: bytes) -> bool:
    if not word.isascii():
        return _has_text(word, header, folded, wide)
    raw = word.encode("ascii")
    return any(raw in hay and _stands_alone(raw, hay) for hay in (folded, wide))


def _has_digits(raw: bytes, header: bytes, wide: bytes) -> bool:
    pattern = None
    for hay in (header, wide):
        if raw in hay:
            pattern = pattern or re.compile(rb"(?<![0-9])" + re.escape(raw) + rb"(?![0-9])")
            if pattern.search(hay):
                return True
    return False
