"""Safe private attributes: those that PS3.15 Table E.3.10-1 names, by creator, group and element.

`safe_private.csv` holds the whole table (479 attributes of 20 creators). A vendor's promise is not taken for the
value: it passes the rule of its VR as a standard attribute does (numbers, codes, technical words, UIDs replaced,
items cleaned), and what no rule can judge (OB, OW, UN, dates) goes. A private block is known only by its creator's
name in the same dataset (PS3.5 7.8.1), so the creator's element stays with what is kept of its block.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from medgan.deid import screen, table
from medgan.deid.actions import COPY, KEEP_BY_RULE, KEEP_BY_VR, REMOVE, Action, Rule
from medgan.deid.elements import Element, encode

if TYPE_CHECKING:
    from medgan.deid.apply import Work

_CREATORS = range(0x10, 0x100)
_JUDGED: dict[bytes, Action] = {
    **KEEP_BY_VR,
    **dict.fromkeys((b"LO", b"SH", b"ST", b"LT", b"UT", b"UC"), KEEP_BY_RULE["words"]),
    b"SQ": KEEP_BY_RULE["sequence"],
}


@functools.cache
def safe_rules() -> dict[tuple[str, int, int], Rule]:
    """(creator, group, low byte of the element) -> rule."""
    rules = {}
    for line in table.lines("safe_private.csv"):
        group, element, vr = int(line["group"], 16), int(line["element"], 16), line["vr"].encode()
        rules[line["creator"], group, element] = _rule(group, line["meaning"], vr, int(line["values"]))
    return rules


def _rule(group: int, meaning: str, vr: bytes, values: int) -> Rule:
    """The rule of a VR; without one (`b""`) the element's own decides, see `_as_sent`."""
    return Rule(group << 16, meaning, (vr,), values, _JUDGED.get(vr, REMOVE), table.bound(meaning))


@functools.cache
def _as_sent(rule: Rule, vr: bytes) -> Rule:
    return rule if rule.vrs != (b"",) else _rule(rule.tag >> 16, rule.keyword, vr, rule.max_values)


def keep(elements: list[Element], work: Work) -> list[tuple[int, bytes]]:
    """(tag, encoded element) of the safe private attributes of one dataset, and of their creators."""
    out: dict[int, bytes] = {}
    creators: dict[int, str] = {}
    for element in elements:
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if not group & 1:
            continue
        if number in _CREATORS:
            raw = work.buffer[element.start : element.stop].strip(b" \0")
            creators[group << 8 | number] = raw.decode("ascii", "replace")
            continue
        block = group << 8 | number >> 8
        creator = creators.get(block, "")
        rule = safe_rules().get((creator, group, number & 0xFF))
        if rule is None:
            continue
        rule = _as_sent(rule, b"SQ" if element.items is not None else element.vr)
        if (element.items is None) != (rule.vrs[0] != b"SQ"):
            continue
        value = rule.action.value(element, rule, work)
        if value is None:
            continue
        raw = work.buffer[element.start : element.stop] if value is COPY else value
        out[group << 16 | block & 0xFF] = encode(
            group << 16 | block & 0xFF, b"LO", creator.encode(), explicit=work.explicit
        )
        out[element.tag] = encode(element.tag, rule.vrs[0], raw, explicit=work.explicit)
        work.counts["K"] += 1
        work.kept.add(screen.fold(creator))
    return sorted(out.items())
