"""What a kept value may look like.

The allow list reaches down to values: an attribute that may stay still loses a value that could hide a name, a
number of a patient or a date.
"""

from __future__ import annotations

import functools
import re
from itertools import pairwise

from pydicom._uid_dict import UID_dictionary
from pydicom.charset import python_encoding

from medgan.deid.table import vocabulary

_CHARACTER_SETS = frozenset(python_encoding)
UID_PATTERN = re.compile(r"[0-9.]{1,64}")
# A day, or a moment of it, as the whole part of a number.
_DAY = (
    rb"0*(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[01][0-9]|2[0-3])?(?:[0-5][0-9]){0,2}(?![0-9])"
)
_NUMBER = (
    rb"[ ]*+[+-]?(?!" + _DAY + rb")[0-9]{0,32}+(?:[.][0-9]{0,32}+)?+(?:[eE][+-]?[0-9]{1,4})?[ ]*+"
)  # possessive: in one pass, whatever is in it
NUMBERS = re.compile(_NUMBER + rb"(?:\\" + _NUMBER + rb")*+\0?")
_CODE = re.compile(rb"[A-Z0-9_ \\/+.,:()-]*\0?")
TERM = re.compile(rb"[A-Z0-9_ ]{0,16}|[a-z]")
_AGE = re.compile(rb"\d{3}[DWMY]")
PEOPLES = re.compile(  # as hospitals and censuses write them, with how a question for it was not answered
    r"\b(?:aborigin(?:al|es?)|afro|african?|alaskan?|aleut|american|amerindian|arab(?:ic)?|ashkenazi[cm]?|asian|bangladeshi|"
    r"berber|biracial|black|brazilian|burmese|cambodian|caribbean|cauc(?:asoid)?|chinese|creole|cuban|declined|ethiopian|"
    r"european|fijian|filipin[ao]|han|hawaiian|hispanic|hmong|indian|indigenous|indonesian|inuit|iranian|islander|"
    r"japanese|jewish|korean|kurdish|lankan|laotian|latin[aox]|malay|m[aā]ori|melanesian|mestizo|mexican|micronesian|"
    r"mongolian|multiracial|native|nepali|nigerian|nordic|pacific|pakistani|pasifika|persian|polynesian|punjabi|rican|"
    r"samoan|sami|sephardi[cm]?|slavic|somali|taiwanese|tamil|thai|tongan|turkish|undisclosed|unk|unreported|"
    r"unspecified|vietnamese)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]+")
_LETTERS = re.compile(r"([A-Za-z\x80-\U0010ffff]+)")  # an accent does not end a word
# Seven digits in a row can be a record number, a phone number or a date; six can be a date, five a ZIP code.
_DIGITS, _FEW_DIGITS = re.compile(r"\d{6,}"), re.compile(r"\d{5,}")
_SPACED_DIGITS = re.compile(r"(?<![\d.])(?=\d+[\s_/,:-])\d(?:[\s_/,:-]{0,2}\d){6,}")
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)"
)
_BEGIN = r"(?<![A-Za-z\d])(?![TSCAPRLHF](?:/[TSCAPRLHF])+(?![\w/]))"  # of letters; T/S/C says how slices lie
_GAP = r"[\s_.,/*+-]+"
_NO_STAGE = r"(?!y?[cpr]?T(?:is|[0-4X][a-d]?)N[0-3X][a-c]?(?:M[01X][a-c]?)?(?![A-Za-z\d]))"  # of a tumour: pT3bN2aM0
# Names as they are written in no term (HU, MA, LI and NG are some, Wu and WU none), and those that elements, low doses,
# the left side, tumours and French articles are written like.
_SHORT = r"(?:Bo|Cy|Do|Ed|Fu|Gu|H[au]|Jo|K[ou]|Ly|M[ai]|Ng|Oh|Qi|Su|Ty|Vo|Wu|X[iu]|Y[eu]|WU|XU|XI|YU|QI)"
_ALSO_TERM = r"(?:Du|H[eo]|L[eiou]|Tu)"
# What betrays somebody whatever words stand around it: dates, phone numbers and their like, addresses of machines,
# a title with a name, initials, an age of 90.
_TELLING = (
    re.compile(r"(?<!\d)(?:\d{1,3}\.){3}\d{1,3}(?!\d)"),
    re.compile(r"(?<![\d.])\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?![\d.])"),
    re.compile(rf"\d{{1,4}}[\s.,/-]*(?<![a-z]){_MONTH}(?![a-z])(?:[\s.,/-]*\d{{1,4}})?", re.IGNORECASE),
    re.compile(rf"(?<![a-z]){_MONTH}(?![a-z])[\s.,/-]*\d{{1,4}}(?:[\s.,/-]+\d{{1,4}})?", re.IGNORECASE),
    re.compile(r"(?:\+|\(|\b)\d{2,5}[)\s/.-]+\d{2,5}[\s/.-]+\d{2,}"),
    re.compile(r"(?<![\d.])\d{3}[\s.-]\d{4}(?![\d.])"),
    re.compile(r"(?<!\S)\S*(?:@|://)\S*|\bwww\.\S*", re.IGNORECASE),  # from where a word begins: linear in its length
    re.compile(r"\b(?:Dr|Prof|Mr|Mrs|Ms|Miss|Herr|Frau|Mme|Dott)\b\.?(?:[\s,]+[A-Z][\w'-]*){1,4}"),
    re.compile(r"\bDR\.(?:[\s,]*[A-Z][\w'-]*){1,4}"),
    re.compile(r"(?<![\w.])(?:[A-Z]\.[ ]?){2,}"),
    # The commonest names of two letters. Some are terms too (Lu-177, He, Lo dose, Thorax Li): those go where a person
    # stands, beside another such name, "Li, Bo", "Miller, Li", "Li^Bo", "B. Li".
    re.compile(rf"(?<![A-Za-z\d*_])(?:{_SHORT}[\s,^]+{_ALSO_TERM}|{_ALSO_TERM}[\s,^]+{_SHORT})(?![A-Za-z\d_])"),
    re.compile(rf"(?:^|[;^])\s*{_ALSO_TERM}(?=\s*[,^])"),
    re.compile(rf"(?:[,^]|(?<![A-Za-z.])[A-Z]\.)\s*{_ALSO_TERM}(?![A-Za-z\d_]|-?\d)"),
    re.compile(rf"(?<![A-Za-z\d*_]){_SHORT}(?![A-Za-z\d_])"),
    re.compile(r"\b0?(?:9\d|1[0-4]\d)(?=\s*(?:-\s*)?(?:y(?:ears?|rs?|o|/o)?\b|jahre))", re.IGNORECASE),
    re.compile(r"\bage[d:]?\s*(?:9\d|1[0-4]\d)\b", re.IGNORECASE),
    # What is spelled so that no word of it is seen: d-o-e, ja ne do, j1a2n3e4, %4A%61, &#74,
    # 4A616E65, 4a:61:6e:65, fe80::1ff:fe23.
    re.compile(r"(?<![A-Z0-9:])(?:[0-9A-F]{1,4}:{1,2}){3,}[0-9A-F]{1,4}", re.IGNORECASE),
    re.compile(rf"{_BEGIN}(?:[A-Za-z]{_GAP}){{2,}}[A-Za-z](?![A-Za-z\d])"),
    re.compile(rf"{_BEGIN}(?:[A-Za-z]{{1,2}}{_GAP}){{3,}}[A-Za-z]{{1,2}}(?![A-Za-z\d])"),
    re.compile(
        rf"(?<![A-Za-z\d]){_NO_STAGE}(?=(?:\d*[A-Za-z]){{4}})"
        r"(?=(?:[A-Za-z]+\d+){2}|(?:\d+[A-Za-z]+){2})[A-Za-z\d]+"
    ),
    re.compile(r"(?:%[0-9A-F]{2}[A-Z0-9]?){2,}|&#x?[0-9A-F]{2,}", re.IGNORECASE),
    re.compile(r"(?<![A-Z0-9])(?:0x)?(?=[A-F]*\d)(?=\d*[A-F])(?:[0-9A-F]{2}){4,}(?![A-Z0-9])", re.IGNORECASE),
    re.compile(r"(?<![A-Z0-9])(?:[0-9A-F]{2}[\s:_-]+){3,}[0-9A-F]{2}(?![A-Z0-9])", re.IGNORECASE),
)
# Numbers with an initial: A12345, but b1000 and TR2000 say how the image was made.
_SERIAL = re.compile(r"(?<![A-Za-z])(?!b\d|T[REI]\d)[A-Za-z]{1,4}[-#]?\d{4,}(?!\d)", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[\^@=<>|;\"'`{}$~\x00-\x1f\x7f-\U0010ffff]")
_SEPARATORS = re.compile(r"[\^_=,\\]")
MIN_WORD_LETTERS = 3
MOST_CHARACTERS = 1024  # of a technical text, as of ST (PS3.5 6.2), and of what is remembered
MOST_SERIAL_DIGITS = 8  # of a coil; telephone and national numbers have more
_FEWEST_SPELLED = 5
_FEWEST_FOREIGN = 10  # bytes: a colour of three numbers is a Western word by chance, one in fifty
_BETWEEN_LETTERS = b" ^=,.'-"
_END_LETTERS = 12
_PLAIN_TEXT, _PLAIN_RUN = re.compile(rb"[A-Za-z0-9 ^=,.'-]{12}"), re.compile(rb"[A-Za-z0-9 ^=,.'-]{12,}")
_FEWEST_TURNS = 2
_NO_LETTERS = bytes(byte for byte in range(256) if not chr(byte).isalpha() or byte > 127)  # noqa: PLR2004 - ASCII
# SOP classes of vendors that hold ordinary images (DICOM conformance statements): no room for a date or a number.
_VENDOR_UIDS = re.compile(
    r"1\.3\.12\.2\.1107\.5\.9\.1|(?:1\.3\.46\.670589\.(?:11\.0\.0\.12|5\.0)|1\.2\.840\.113619\.4)\.\d{1,2}(?:\.\d{1,2})?"
)


def well_known(uid: str) -> bool:
    """Whether `uid` names a class or syntax and not a thing: PS3.6 Table A-1, or a vendor's SOP class."""
    return uid in UID_dictionary or _VENDOR_UIDS.fullmatch(uid) is not None


def code_passes(value: bytes) -> bool:
    """Whether a CS value consists of defined terms: capitals, no long number, no unknown word."""
    return len(value) <= MOST_CHARACTERS and _code_passes(value)


@functools.lru_cache(maxsize=65_536)
def _code_passes(value: bytes) -> bool:
    if not _CODE.fullmatch(value):
        return False
    terms = value.rstrip(b" \0").decode("ascii").split("\\")
    return all(term in _CHARACTER_SETS or text_passes(term.replace("_", " "), frozenset()) for term in terms)


def text_passes(text: str, names: frozenset[str], *, numbers: bool = False) -> bool:
    """Whether `text` is technical: words of the vocabulary, nothing like an identifier, none of `names`; not long.

    `numbers` admits long digit runs (a coil's serial number) that are no date.
    """
    return len(text) <= MOST_CHARACTERS and _text_passes(text, names, numbers=numbers)


@functools.lru_cache(maxsize=65_536)
def _text_passes(text: str, names: frozenset[str], *, numbers: bool) -> bool:
    if _FORBIDDEN.search(text) or tells(text):
        return False
    if not numbers and _SERIAL.search(text):
        return False
    for run in _DIGITS.findall(text):
        if not numbers or run[:2] in ("19", "20") or len(run) > MOST_SERIAL_DIGITS:
            return False
    return all(_word_passes(word.lower(), names) for word in _WORD.findall(text))


def tells(text: str) -> bool:
    """Whether `text` holds what betrays somebody whatever words stand around it."""
    return any(pattern.search(text) for pattern in (*_TELLING, _SPACED_DIGITS))


def clean_text(text: str, names: frozenset[str]) -> str:
    """`text` without what could identify: unknown words, names, dates and numbers go, the rest stays."""
    return _clean_text(text, names) if len(text) <= MOST_CHARACTERS else _clean_text.__wrapped__(text, names)


@functools.lru_cache(maxsize=1024)  # a series repeats its texts
def _clean_text(text: str, names: frozenset[str]) -> str:
    for pattern in (*_TELLING, _SERIAL, _FEW_DIGITS, _SPACED_DIGITS):
        text = pattern.sub(" ", text)
    pieces = _LETTERS.split(text)
    kept = [
        (piece if _word_passes(piece.lower(), names) else " ") if at % 2 else _FORBIDDEN.sub(" ", piece)
        for at, piece in enumerate(pieces)
    ]
    return " ".join("".join(kept).split())


def _word_passes(word: str, names: frozenset[str]) -> bool:
    if word in names or not word.isascii():
        return False
    return len(word) < MIN_WORD_LETTERS or word in vocabulary()


def spells(raw: bytes, size: int) -> bool:
    """Whether the bytes of binary numbers are a text, and the highest of each `size` bytes a letter, digit or space."""
    text = raw.rstrip(b" \0")
    if len(text) < _FEWEST_SPELLED:
        return False
    short = len(raw) < _FEWEST_FOREIGN
    if not text.isascii():
        return size == 1 and not short and _reads_as_words(text)
    if size == 1:
        return text.translate(None, _BETWEEN_LETTERS).isalnum() if short else text.decode("ascii").isprintable()
    return text.decode("ascii").isprintable() and text[size - 1 :: size].translate(None, b" ").isalnum()


def _reads_as_words(raw: bytes) -> bool:
    """Whether bytes beyond ASCII are letters of UTF-8, or mostly letters of a Western alphabet."""
    try:
        return raw.decode().isprintable()
    except UnicodeDecodeError:
        letters = raw.translate(None, _NO_LETTERS)
        return min(raw) >= ord(" ") and len(letters) * 2 > len(raw)


def text_at_an_end(raw: bytes) -> bool:
    """Whether a table of numbers begins or ends in letters that are no ramp, as a table's own are."""
    ends = (raw[:_END_LETTERS], raw[-_END_LETTERS:])
    return any(
        _PLAIN_TEXT.fullmatch(end) is not None and list(end) not in (sorted(end), sorted(end, reverse=True))
        for end in ends
    )


def text_inside(raw: bytes) -> bool:
    """Whether a table of numbers holds letters that go up and down as those of words do; a table's own are a curve.

    Every other byte is looked at alone, because entries may have two: the higher ones hardly change.
    """
    return any(
        all(_turns(run[at + side : at + _END_LETTERS : 2]) >= _FEWEST_TURNS for side in (0, 1))
        for run in _PLAIN_RUN.findall(raw)
        for at in range(0, len(run) - _END_LETTERS + 1, _END_LETTERS // 2)
    )


def _turns(numbers: bytes) -> int:
    """How often a sequence turns from growing to falling or back."""
    steps = [other > one for one, other in pairwise(numbers) if other != one]
    return sum(one != other for one, other in pairwise(steps))


def age_passes(value: bytes) -> bool:
    """Whether an AS value has its form (PS3.5 6.2)."""
    return bool(_AGE.fullmatch(value.strip(b" \0"))) or not value.strip(b" \0")


def fold(text: str) -> str:
    """Lower case, separators of names and values as single spaces: the form in which texts are compared."""
    return " ".join(_SEPARATORS.sub(" ", text.lower()).split())
