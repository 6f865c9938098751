"""Profiles: the Basic Application Confidentiality Profile and its options, composed by name.

`load("basic+modified-dates")` compiles Table E.1-1 to one rule an attribute. Where several options speak of
one attribute, K (retain) wins over C (clean), and both over the basic action; but dates follow the date options
alone, so that retaining a device's identity never lets a real date through.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass, field

from pydicom import datadict

from medgan.deid import actions, table
from medgan.deid.actions import Action, Rule
from medgan.errors import InvalidRequest
from medgan.records import canonical_json, sha256_hex

# CID 7050 De-identification Method: (code value, code meaning).
METHODS = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "clean-pixel-data": ("113101", "Clean Pixel Data Option"),
    "clean-recognizable-visual-features": ("113102", "Clean Recognizable Visual Features Option"),
    "clean-graphics": ("113103", "Clean Graphics Option"),
    "clean-structured-content": ("113104", "Clean Structured Content Option"),
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    "full-dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "modified-dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device-identity": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "safe-private": ("113111", "Retain Safe Private Option"),
    "institution-identity": ("113112", "Retain Institution Identity Option"),
}
PATIENT_GROUP = 0x0010
SITE_ACTIONS: dict[str, Action] = {
    "X": actions.REMOVE,
    "Z": actions.EMPTY,
    "D": actions.DUMMY_VALUE,
    "U": actions.NEW_UID,
    "K": actions.KEEP,
    "C": actions.CLEAN_TEXT,
}
# The text inside of what these options clean (PS3.15 E.3.3, E.3.4): the table names the sequences that hold it.
CLEANED_TEXTS = {
    "clean-structured-content": (0x0040A160,),  # TextValue
    "clean-graphics": (0x00700006,),  # UnformattedTextValue
}
DATE_OPTIONS = {"full-dates", "modified-dates"}
DATE_VRS = ("DA", "DT", "TM")
# What is retained is still what its VR says it is; in a text nobody can tell that.
KEPT_BY_VR: dict[str, Action] = {
    **dict.fromkeys(DATE_VRS, actions.KEEP_DATE),
    "AS": actions.KEEP_AGE,
    "CS": actions.KEEP_TERM,
    **{vr: actions.KEEP_BY_VR[vr.encode()] for vr in ("DS", "IS", "US")},
}
PATIENT_NAME, PATIENT_ID, ETHNIC_GROUP = 0x00100010, 0x00100020, 0x00102160
# Of a choice such as X/Z/D the one that keeps an object conformant whatever the attribute's type is in its IOD.
BASIC_ACTIONS: dict[str, Action] = {
    "X": actions.REMOVE,
    "Z": actions.EMPTY,
    "D": actions.DUMMY_VALUE,
    "U": actions.NEW_UID,
    "X/Z": actions.EMPTY,
    "X/D": actions.DUMMY_VALUE,
    "Z/D": actions.DUMMY_VALUE,
    "X/Z/D": actions.DUMMY_VALUE,
    "X/Z/U*": actions.CLEAN_ITEMS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A compiled profile: `rules` by tag; a tag without a rule is removed."""

    name: str
    edition: str
    options: tuple[str, ...]
    digest: str
    rules: dict[int, Rule] = field(repr=False, hash=False, compare=False)
    site: str = field(default="", repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to workers by name, with the text of the site's overrides."""
        return (load, (self.name, self.site))

    @property
    def dates(self) -> str:
        """What became of dates, as (0028,0303) says it."""
        if "full-dates" in self.options:
            return "UNMODIFIED"
        return "MODIFIED" if "modified-dates" in self.options else "REMOVED"


@functools.lru_cache(maxsize=64)
def load(expression: str = "basic", site: str = "") -> Profile:
    """Profile named by `expression`: `basic` and options joined by `+` in any order.

    `site` is the text of a TOML file that overrides single attributes, for example
    `[attributes]` `StationName = "K"`, `"0018,1030" = "X"`; it is part of the digest and so of the audit.
    Raises `InvalidRequest` for an unknown name, and for a site file that keeps what names a patient.
    """
    names = [name.strip() for name in expression.split("+")]
    options = tuple(name for name in METHODS if name in names and name != "basic")
    unknown = len(set(names) - set(METHODS))
    if unknown or "basic" not in names:
        raise InvalidRequest(f"a profile is basic, with options joined by +, of: {', '.join(METHODS)}")
    if {"full-dates", "modified-dates"} <= set(options):
        raise InvalidRequest("full-dates and modified-dates exclude each other")
    name = "+".join(("basic", *options))
    rules = _compile(frozenset(options)) | _overrides(site)
    content = {"name": name, "edition": table.EDITION, "tables": table.content_sha256(), "site": site}
    digest = sha256_hex(canonical_json(content))
    return Profile(name=name, edition=table.EDITION, options=options, digest=digest, rules=rules, site=site)


def _overrides(site: str) -> dict[int, Rule]:
    """Rules of a site file; every line has to name a standard attribute and an action."""
    try:
        wanted = tomllib.loads(site).get("attributes", {})
    except tomllib.TOMLDecodeError:
        raise InvalidRequest("the site file is no TOML") from None
    rules = {}
    for name, code in wanted.items():
        text = re.sub(r"[(), ]", "", name)
        tag = int(text, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", text) else datadict.tag_for_keyword(name)
        if tag is None or not datadict.dictionary_has_tag(tag) or code not in SITE_ACTIONS:
            raise InvalidRequest(f"a site file sets standard attributes to one of {', '.join(SITE_ACTIONS)}")
        vr, vm = datadict.dictionary_VR(tag), datadict.dictionary_VM(tag)
        if code in ("K", "C") and (tag >> 16 == PATIENT_GROUP or vr == "PN"):
            raise InvalidRequest("a site file cannot keep what names a patient or a person")
        action = SITE_ACTIONS[code]
        if code == "C" and vr == "SQ":
            action = actions.CLEAN_ITEMS
        rules[tag] = _rule(tag, datadict.keyword_for_tag(tag), vr, vm, action)
    return rules


def _rule(tag: int, keyword: str, vr: str, vm: str, action: Action) -> Rule:
    return Rule(tag, keyword, _vrs(vr), _max_values(vm), action, table.bound(keyword))


def _compile(options: frozenset[str]) -> dict[int, Rule]:
    rules = {}
    for row in table.allowed():
        action: Action | None = actions.KEEP_BY_RULE.get(row.rule)
        if row.rule == "date":
            action = _date_action(options)
        if action is not None:
            rules[row.tag] = _rule(row.tag, row.keyword, row.vr, row.vm, action)
    for line in table.rows():
        if "x" in line.pattern or line.pattern == table.PRIVATE_PATTERN:
            continue  # repeating groups and private attributes have no rule of their own, so they go
        tag = int(line.pattern, 16)
        rules[tag] = _rule(tag, line.keyword, line.vr, "", action_of(line, options))
    for option, tags in CLEANED_TEXTS.items():
        if option in options:
            rules |= {tag: rules[tag]._replace(action=actions.CLEAN_NEEDED_TEXT) for tag in tags}
    return rules


def action_of(row: table.Row, options: frozenset[str]) -> Action:
    """What a profile with `options` does to the attribute of one row of Table E.1-1."""
    tag = int(row.pattern, 16)
    if tag in (PATIENT_NAME, PATIENT_ID):
        return actions.PSEUDONYM
    if row.vr in DATE_VRS and options & DATE_OPTIONS and DATE_OPTIONS & set(row.options):
        return _date_action(options) or BASIC_ACTIONS[row.basic]
    chosen = {code for option, code in row.options.items() if option in options}
    if "K" in chosen:
        return actions.KEEP_PEOPLE if tag == ETHNIC_GROUP else KEPT_BY_VR.get(row.vr, actions.KEEP)
    if "C" in chosen:
        if row.vr == "SQ":
            return actions.CLEAN_ITEMS
        # Where the basic action is D the object needs a value: type 1, Table E.1-1a.
        return actions.CLEAN_NEEDED_TEXT if row.basic == "D" else actions.CLEAN_TEXT
    return BASIC_ACTIONS[row.basic]


def _date_action(options: frozenset[str]) -> Action | None:
    if "full-dates" in options:
        return actions.KEEP_DATE
    return actions.SHIFT_DATE if "modified-dates" in options else None


def _vrs(text: str) -> tuple[bytes, ...]:
    return tuple(vr.encode() for vr in text.split(" or ")) if text else (b"UN",)


def _max_values(vm: str) -> int:
    """Largest number of values that a multiplicity such as `1`, `3` or `1-2` allows; 0 for any."""
    last = vm.rsplit("-", maxsplit=1)[-1]
    return int(last) if last.isdigit() else 0


def explain(profile: Profile) -> list[str]:
    """Sorted sentences: what this profile does to which attributes."""
    keywords: dict[str, list[str]] = {}
    for _, rule in sorted(profile.rules.items()):
        keywords.setdefault(rule.action.sentence, []).append(rule.keyword)
    listed = [
        f"{len(names)} attributes, such as {', '.join(filter(None, names[:: max(1, len(names) // 3)][:3]))}: "
        f"the value {sentence}."
        for sentence, names in keywords.items()
    ]
    return [*sorted(listed), "Every other attribute, standard or private, is removed at any depth."]
