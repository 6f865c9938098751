"""Names of outlined structures: a public code's meaning, or the words of the technical vocabulary that a name has."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from medgan.deid import codes, screen

if TYPE_CHECKING:
    from medgan.archive.references import Mark

UNNAMED = "unnamed"
BETWEEN = " + "
_MOST_LETTERS = 40
# What 3D Slicer, and exports of medgan's own, call a segment whose name has no code.
_OF_ANYTHING = frozenset(
    ("anatomical structure", "body structure", "body organ structure", "tissue", "physical object")
)
_KIND = re.compile(r" \([^)]*\)$")  # SNOMED CT says the kind of a concept behind its name
# Who drew it: two letters that are no side, no word of English and no volume of radiotherapy.
_INITIALS = re.compile(r"(?<![a-z])(?!(?:lt|rt|of|in|to|at|on|or|no|ct|mr|pt)(?![a-z]))[a-z]{2}(?![a-z]) *")
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
_OTHER = re.compile(r"[^a-z0-9 _./()-]+")


def of_images(marks: Iterable[Mark]) -> dict[str, str]:
    """Instance key -> names of what is outlined on it, sorted, `BETWEEN` them."""
    found: dict[str, set[str]] = defaultdict(set)
    for mark in marks:
        found[mark.image].add(name(mark.structure, mark.scheme, mark.code))
    return {image: BETWEEN.join(sorted(names)) for image, names in found.items()}


@functools.lru_cache(maxsize=1024)  # a segmentation repeats its names
def name(text: str, scheme: str = "", code: str = "") -> str:
    """One structure's name in small letters, at most 40; `UNNAMED` where nothing is left that names nobody.

    A code says it before words do, unless it is one of those that say of any structure that it is one; which side it
    lies on is said by words.
    """
    meaning = _tidy(_KIND.sub("", codes.known_codes().get((scheme, code), "")))
    if meaning and meaning not in _OF_ANYTHING:
        sides = {found[0].lower() for found in _SIDE.finditer(text)} if not _SIDE.search(meaning) else set()
        return f"{sides.pop()} {meaning}" if len(sides) == 1 else meaning
    words = _INITIALS.sub("", screen.clean_text(text.replace("_", " "), frozenset()).lower())
    return _tidy(words) or meaning or UNNAMED


def _tidy(text: str) -> str:
    return _OTHER.sub(" ", text.lower()).strip(" _./()-")[:_MOST_LETTERS].strip()
