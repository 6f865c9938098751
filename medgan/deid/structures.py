"""Names of outlined structures: a public code's meaning, or the words of the technical vocabulary that a name has."""

from __future__ import annotations

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
_KIND = re.compile(r" \([^)]*\)$")  # SNOMED CT says the kind of a concept behind its name
# Who drew it: two letters that are no side, no word of English and no volume of radiotherapy.
_INITIALS = re.compile(r"(?<![a-z])(?!(?:lt|rt|of|in|to|at|on|or|no|ct|mr|pt)(?![a-z]))[a-z]{2}(?![a-z]) *")
_OTHER = re.compile(r"[^a-z0-9 _./()-]+")


def of_images(marks: Iterable[Mark]) -> dict[str, str]:
    """Instance key -> names of what is outlined on it, sorted, `BETWEEN` them."""
    found: dict[str, set[str]] = defaultdict(set)
    for mark in marks:
        found[mark.image].add(name(mark.structure, mark.scheme, mark.code))
    return {image: BETWEEN.join(sorted(names)) for image, names in found.items()}


def name(text: str, scheme: str = "", code: str = "") -> str:
    """One structure's name in small letters, at most 40; `UNNAMED` where nothing is left that names nobody."""
    meaning = _KIND.sub("", codes.known_codes().get((scheme, code), ""))
    clean = meaning.lower() or _INITIALS.sub("", screen.clean_text(text.replace("_", " "), frozenset()).lower())
    return _OTHER.sub(" ", clean).strip(" _./()-")[:_MOST_LETTERS].strip() or UNNAMED
