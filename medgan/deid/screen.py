"""What a kept value may look like.

The allow list reaches down to values: an attribute that may stay still loses a value that could hide a name, a
number of a patient or a date.
"""

from __future__ import annotations

import functools
import re

from pydicom._uid_dict import UID_dictionary

from medgan.deid.table import vocabulary

UID_PATTERN = re.compile(r"[0-9.]{1,64}")
NUMBERS = re.compile(rb"(?:[ ]*[+-]?[0-9.]{0,16}(?:[eE][+-]?[0-9]{1,4})?[ ]*\\?)*\0?")
_CODE = re.compile(rb"[A-Z0-9_ \\/+.,:()-]*\0?")
_AGE = re.compile(rb"\d{3}[DWMY]")
_WORD = re.compile(r"[A-Za-z]+")
# Seven digits in a row can be a record number, a phone number or a date; six can be a date.
_DIGITS = re.compile(r"\d{6,}")
_DATE_LIKE = re.compile(r"(?<!\d)\d{1,4}[-/.]\d{1,2}[-/.]\d{2,4}(?![\d.])")
_NUMBER_LIKE = re.compile(r"(?:\+|\(|\b)\d{2,5}[)\s/-]+\d{2,5}[\s/-]+\d{2,}")
_FORBIDDEN = re.compile(r"[\^@=<>|;\"'`{}$~\x00-\x1f\x7f-\U0010ffff]")
_SEPARATORS = re.compile(r"[\^_=,\\]")
MIN_WORD_LETTERS = 3
# SOP classes of vendors that hold ordinary images (DICOM conformance statements).
_VENDOR_UIDS = ("1.3.12.2.1107.5.9.1", "1.3.46.670589.11.0.0.12.", "1.2.840.113619.4.", "1.3.46.670589.5.0.")


def well_known(uid: str) -> bool:
    """Whether `uid` names a class or syntax and not a thing: PS3.6 Table A-1, or a vendor's SOP class."""
    return uid in UID_dictionary or uid.startswith(_VENDOR_UIDS)


@functools.lru_cache(maxsize=65_536)
def code_passes(value: bytes) -> bool:
    """Whether a CS value consists of defined terms: capitals, no long number, no unknown word."""
    if not _CODE.fullmatch(value):
        return False
    return text_passes(value.rstrip(b" \0").decode("ascii").replace("_", " "), frozenset())


@functools.lru_cache(maxsize=65_536)
def text_passes(text: str, names: frozenset[str], *, numbers: bool = False) -> bool:
    """Whether `text` is technical: words of the vocabulary, nothing like an identifier, none of `names`.

    `numbers` admits long digit runs (a coil's serial number) that are no date.
    """
    if _FORBIDDEN.search(text) or _DATE_LIKE.search(text) or _NUMBER_LIKE.search(text):
        return False
    for run in _DIGITS.findall(text):
        if not numbers or run[:2] in ("19", "20"):
            return False
    return all(_word_passes(word.lower(), names) for word in _WORD.findall(text))


def clean_text(text: str, names: frozenset[str]) -> str:
    """`text` without what could identify: unknown words, names, dates and numbers go, the rest stays."""
    for pattern in (_DATE_LIKE, _NUMBER_LIKE, _DIGITS):
        text = pattern.sub(" ", text)
    pieces = re.split(r"([A-Za-z]+)", text)
    kept = [
        (piece if _word_passes(piece.lower(), names) else " ") if at % 2 else _FORBIDDEN.sub(" ", piece)
        for at, piece in enumerate(pieces)
    ]
    return " ".join("".join(kept).split())


def _word_passes(word: str, names: frozenset[str]) -> bool:
    if word in names:
        return False
    return len(word) < MIN_WORD_LETTERS or word in vocabulary()


def age_passes(value: bytes) -> bool:
    """Whether an AS value has its form (PS3.5 6.2)."""
    return bool(_AGE.fullmatch(value.strip(b" \0"))) or not value.strip(b" \0")


def fold(text: str) -> str:
    """Lower case, separators of names and values as single spaces: the form in which texts are compared."""
    return " ".join(_SEPARATORS.sub(" ", text.lower()).split())
