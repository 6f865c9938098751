"""Text of an instance: bytes read by its SpecificCharacterSet, which may name what it likes."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes

from medgan.archive.quiet import quietly

_BLANK: Final = " \0\t\r\n"
_ESCAPE: Final = b"\x1b"
_DELIMITERS: Final = {ord(character) for character in "\\^="}


def is_plain(raw: bytes) -> bool:
    """Whether bytes are the text that they look like: ISO 2022 writes Kanji in ASCII's bytes, behind an escape."""
    return raw.isascii() and _ESCAPE not in raw


def text_of(raw: bytes, character_sets: bytes) -> str:
    """`raw` decoded by the values of SpecificCharacterSet, without padding; what does not decode becomes U+FFFD."""
    return (raw.decode("ascii") if is_plain(raw) else _decode(raw, character_sets)).strip(_BLANK)


def _decode(raw: bytes, character_sets: bytes) -> str:
    """Text of what is more than ASCII; never raises: an encoding may be one of Python's that is no character set."""
    names = [part.strip().decode("ascii", "replace") for part in character_sets.split(b"\\")]
    text = ""
    with quietly(), suppress(LookupError, ValueError, AttributeError, TypeError):
        encodings = convert_encodings(names if len(names) > 1 else names[0] or None)
        text = str(decode_bytes(raw, encodings, _DELIMITERS))
    return text or raw.decode("utf-8", "replace")
