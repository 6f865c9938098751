"""A thousand leaks put into clean output, one at a time: the verifier passes none, and refuses no clean file."""

from __future__ import annotations

import random

import pytest

from medgan.archive import phantom
from medgan.deid import apply, profile, verify
from medgan.deid.elements import encode, take_apart
from medgan.errors import BadInstance
from tests.unit.deid.builders import phantom_with, read, vendor_files, write

LEAKS = 1000
IDENTIFYING = (0x00100020, 0x00101040, 0x00102154, 0x00080050, 0x00080080, 0x00111001)
FORMS = ("utf-8", "utf-16-le", "utf-16-be", "as found", "upper", "lower", "spaces", "underscores")


def values_of(data: bytes) -> list[tuple[str, bytes]]:
    """(VR, value) of what identifies in a phantom: names, ids, addresses, dates, UIDs, private text."""
    source = take_apart(data)
    found = []

    def walk(elements):
        for element in elements:
            value = source.buffer[element.start : element.stop].strip(b" \0")
            if element.items is not None:
                for item in element.items:
                    walk(item)
            elif (element.vr in (b"PN", b"UI", b"DA") and len(value) >= 8) or element.tag in IDENTIFYING:
                found.append((element.vr.decode(), value))

    walk(source.elements)
    return [(vr, value) for vr, value in found if not value.startswith(b"1.2.840.10008")]


def leak(rng: random.Random, data: bytes) -> bytes:
    """One original value in one of its forms, as bytes."""
    _, value = rng.choice(values_of(data))
    text = value.decode("latin-1")
    if not value.isascii():
        return value
    form = rng.choice(FORMS)
    return {
        "upper": text.upper().encode(),
        "lower": text.lower().encode(),
        "spaces": text.replace("^", " ").encode(),
        "underscores": text.replace("^", "_").encode(),
        "as found": value,
    }.get(form) or text.encode(form)


@pytest.mark.parametrize(("said", "codec"), [("ISO_IR 192", "utf-8"), ("ISO_IR 100", "latin-1"), ("", "ascii")])
def test_of_many_originals_few_are_searched_for_and_none_is_missed(said, codec, keyring, monkeypatch):
    searched = []
    whole = verify._has_text

    def has_text(text, output):
        searched.append(text)
        return whole(text, output)

    monkeypatch.setattr(verify, "_has_text", has_text)
    dataset = read(phantom_with(SpecificCharacterSet=said))
    block = dataset.private_block(0x0009, "ACME", create=True)
    street = "Street" if codec == "ascii" else "Straße"
    for number in range(250):
        block.add_new(number, "LO", "\\".join(f"Zuviq {number} {street} {part}" for part in range(8)).encode(codec))
    data, chosen = write(dataset), profile.load("basic")
    apply.deidentify(data, profile=chosen, keyring=keyring)
    assert len(searched) < verify.MANY
    leak = encode(0x00181030, b"UN", f"Zuviq 77 {street} 3".encode(), explicit=True)
    marks = apply._marks
    monkeypatch.setattr(apply, "_marks", lambda *args, **named: marks(*args, **named) | {0x00181030: leak})
    with pytest.raises(BadInstance, match="original value"):
        apply.deidentify(data, profile=chosen, keyring=keyring)


@pytest.mark.parametrize(("many", "leaks"), [(verify.MANY, LEAKS), (0, LEAKS // 4)])
def test_a_thousand_seeded_leaks_and_none_passes(many, leaks, keyring, monkeypatch):
    """Some of them as where originals are so many that most are ruled out before they are searched for."""
    monkeypatch.setattr(verify, "MANY", many)
    rng = random.Random(3)  # noqa: S311 - not for keys
    chosen = profile.load("basic")
    files = [phantom.phantom_study(patient=patient, modality="DX")[0] for patient in range(40)]
    marks = apply._marks
    passed = 0
    for number in range(leaks):
        data = files[number % len(files)]
        planted = leak(rng, data)
        tag = rng.choice((0x00181030, 0x00102180, 0x00204000, 0x00400254, 0x00321060, 0x00280FFF))

        def leaking(profile_, *, explicit, tag=tag, planted=planted):
            return marks(profile_, explicit=explicit) | {tag: encode(tag, b"UN", planted, explicit=explicit)}

        monkeypatch.setattr(apply, "_marks", leaking)
        try:
            apply.deidentify(data, profile=chosen, keyring=keyring)
        except BadInstance as refusal:
            assert refusal.reason == "RESIDUE"  # noqa: PT017 - a refusal is what is counted
        else:
            passed += 1
    assert passed == 0


@pytest.mark.parametrize(
    "expression", ["basic", "basic+modified-dates+patient-characteristics+clean-descriptors", "basic+full-dates+uids"]
)
def test_at_most_five_in_a_hundred_clean_files_are_refused(expression, keyring):
    done = refused = 0
    for path in vendor_files():
        try:
            apply.deidentify(path.read_bytes(), profile=profile.load(expression), keyring=keyring)
            done += 1
        except BadInstance as refusal:
            refused += refusal.reason == "RESIDUE"
    assert done > 120
    assert refused <= 0.05 * done


def test_the_needle_rules_are_as_stated():
    collector = verify.Collector(b"", b"")
    collector.add_text(b"BRAIN", collector.found.texts)
    collector.add_text(b"SIEMENS", collector.found.texts)
    collector.add_text(b"abc", collector.found.texts)
    collector.add_text(b"0.634765625", collector.found.texts)
    assert not collector.found.texts
    collector.add_text(b"1234567", collector.found.texts)
    collector.add_text(b"Xyzzy Plugh", collector.found.texts)
    assert collector.found.texts == {"1234567", "xyzzy plugh"}
