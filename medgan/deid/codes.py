"""Coded entries: which (scheme, code) pairs are public terminology and so cannot name anybody."""

from __future__ import annotations

import functools
from typing import Any

# Retired designators of SNOMED-RT, PS3.16 8.2.
_SNOMED_RT = ("SRT", "SNM3", "99SDM")
_UNITS = frozenset(("1", "mm", "cm", "m", "mm2", "cm2", "mm3", "cm3", "ml", "s", "ms", "h", "min", "g", "kg", "mg"))
_MORE_UNITS = frozenset(("[hnsf'U]", "%", "Bq/ml", "g/ml", "{SUVbw}g/ml", "ug/ml", "mm2/s", "um2/s", "{counts}", "Cel"))


UNKNOWN = ("SCT", "261665006", "Unknown")
"""Scheme, value and meaning (PS3.16) that stand for a concept whose own code did not pass."""


@functools.cache
def known_codes() -> dict[tuple[str, str], str]:
    """(scheme designator, code value) -> meaning, from the dictionaries that pydicom ships (PS3.16)."""
    from pydicom.sr import _concepts_dict, _snomed_dict

    concepts: dict[str, dict[str, Any]] = _concepts_dict.concepts
    found = {
        (scheme, code): meaning
        for scheme, by_keyword in concepts.items()
        for by_code in by_keyword.values()
        for code, (meaning, _) in by_code.items()
    }
    for srt, sct in _snomed_dict.mapping["SRT"].items():
        for scheme in _SNOMED_RT:
            found[scheme, srt] = found.get(("SCT", sct), "")
    for sct in _snomed_dict.mapping["SCT"]:
        found.setdefault(("SCT", sct), "")
    for unit in _UNITS | _MORE_UNITS:
        found.setdefault(("UCUM", unit), unit)
    return found
