"""One generated test a row of Table E.1-1, and one a row and option."""

from __future__ import annotations

import functools

import pytest
from pydicom import DataElement

from medgan.archive import phantom
from medgan.deid import actions, apply, profile, table
from medgan.deid.elements import encode, encode_item, take_apart

ROWS = {row.pattern: row for row in table.rows()}
ITEM = encode_item(
    encode(0x00100010, b"PN", b"Zuviqo^Raxe", explicit=True)
    + encode(0x00100020, b"LO", b"ZUVIQORAXE73", explicit=True)
    + encode(0x00280010, b"US", b"\7\0", explicit=True)
)
SAMPLES = {
    **dict.fromkeys((b"LO", b"SH", b"UC", b"CS", b"AE"), b"ZUVIQORAXE"),
    **dict.fromkeys((b"ST", b"LT", b"UT", b"PN"), b"Zuviqo Raxenu"),
    b"DA": b"20170809",
    b"TM": b"071829.123456",
    b"DT": b"20170809071829.123456",
    b"AS": b"047Y",
    b"DS": b"73.5731",
    b"IS": b"735731",
    b"UI": b"1.2.826.0.1.3680043.9.7357.31",
    b"UR": b"https://zuviqoraxe.example.org/7",
    **dict.fromkeys((b"US", b"SS"), b"\7\0"),
    **dict.fromkeys((b"UL", b"SL", b"FL"), b"\7\0\0\0"),
    b"FD": bytes(7) + b"\7",
    **dict.fromkeys((b"OB", b"OW", b"UN", b"OF"), b"ZUVIQORAXE73"),
    b"SQ": ITEM,
}
TERMS = {"CS": b"CHEST_LATERAL", "SH": b"Samoan"}  # not in the phantom
# Written by us, or what an instance cannot be without: tested in test_promises.
FIXED = {"00100010", "00100020", "00080018", "0020000d", "0020000e", "00020003"}


def sample(row: table.Row) -> tuple[int, bytes, bytes]:
    """Tag, VR and a telling value of one row."""
    tag = int(row.pattern.replace("gggg", "0099").replace("eeee", "1001").replace("x", "0"), 16)
    if "x" in row.pattern and tag & 0xFFFF == 0:
        tag |= 0x3000  # element 0000 of a group is its length
    vr = row.vr.split(" or ")[0].encode() if row.vr else b"LO"
    return tag, vr, SAMPLES[vr]


@functools.cache
def host() -> tuple[bytes, dict[int, bytes]]:
    """Part 10 head and encoded elements of the phantom that carries each sample."""
    source = take_apart(phantom.phantom_study()[0])
    pieces = {element.tag: source.buffer[element.head : element.stop] for element in source.elements}
    return source.buffer[: source.elements[0].head], pieces


def outcome(row: table.Row, expression: str, keyring, value: bytes = b"") -> tuple[bytes, DataElement | None]:
    """What a profile makes of a phantom whose attribute of the row has its sample, or `value`: bytes and element."""
    tag, vr, telling = sample(row)
    value = value or telling
    head, pieces = host()
    pieces = pieces | {tag: encode(tag, vr, value, explicit=True)}
    if tag >> 16 & 1:
        pieces[0x00990010] = encode(0x00990010, b"LO", b"SOMEBODY", explicit=True)
    elif tag >> 16 in (0x0000, 0x0002):
        pytest.skip("commands and file meta stand in no dataset; file meta is written anew, see test_promises")
    data = head + b"".join(pieces[one] for one in sorted(pieces))
    clean = apply.deidentify(data, profile=profile.load(expression), keyring=keyring)
    return clean.data, clean.dataset.get(tag)


def holds(data: bytes) -> bool:
    """Whether the sample's value stands in the output; a time of day says nothing without its date."""
    return any(part in data.upper() for part in (b"ZUVIQO", b"20170809", b"1.2.826.0.1.3680043.9.7357.31"))


@pytest.mark.parametrize("pattern", sorted(ROWS))
def test_the_basic_profile_removes_or_replaces(pattern, keyring):
    row = ROWS[pattern]
    data, element = outcome(row, "basic", keyring)
    assert not holds(data)
    if pattern in FIXED:
        return
    if "D" not in row.basic and "U" not in row.basic:
        assert element is None or element.is_empty
    elif row.basic == "D" and element is not None and row.vr not in ("SQ", "UI"):
        assert not element.is_empty
    elif row.basic == "U":
        assert element.value.startswith("2.25.")


@pytest.mark.parametrize(
    ("pattern", "option"), sorted((row.pattern, option) for row in ROWS.values() for option in row.options)
)
def test_every_option_does_what_its_column_says(pattern, option, keyring):
    row = ROWS[pattern]
    if "x" in pattern or pattern == table.PRIVATE_PATTERN:
        data, element = outcome(row, f"basic+{option}", keyring)
        assert element is None  # a graphic or a private text cannot be told clean, so cleaning removes it
        return
    action = profile.load(f"basic+{option}").rules[sample(row)[0]].action
    data, element = outcome(row, f"basic+{option}", keyring)
    if row.options[option] == "K" and row.vr != "SQ":
        assert action in (actions.KEEP, actions.KEEP_PEOPLE, *profile.KEPT_BY_VR.values())
        if action is actions.KEEP_PEOPLE or (action is actions.KEEP_TERM and "Device" not in row.keyword):
            assert not holds(data)  # a name is no term, but what is one stays
            data, _ = outcome(row, f"basic+{option}", keyring, value=(term := TERMS[row.vr]))
            assert term in data
            return
        assert element is not None
        assert sample(row)[2] in data
    elif option == "modified-dates":
        assert action in (actions.SHIFT_DATE, actions.CLEAN_TEXT, actions.CLEAN_NEEDED_TEXT)
        assert not holds(data)
    else:
        assert action in (actions.CLEAN_ITEMS, actions.CLEAN_TEXT, actions.CLEAN_NEEDED_TEXT, actions.KEEP)
        assert not holds(data)
