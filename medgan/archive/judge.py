"""Judge one leaf of a source: an instance with its handles, a table, marks on images, or a refusal with its reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

from medgan.archive import charsets, container, images, instance, labels, pixels, references, structure
from medgan.archive.container import Extent, Leaf
from medgan.archive.images import Card
from medgan.archive.memory import Header, Outcome
from medgan.archive.references import Mark
from medgan.archive.structure import Structure
from medgan.errors import BadInstance
from medgan.keys import Keyring
from medgan.records import QuarantineReason

_CHARACTER_SET: Final = 0x00080005
_ACCESSION_NUMBER: Final = 0x00080050
_PATIENT_NAME: Final = 0x00100010
_BIRTH_DATE: Final = 0x00100030
_INSTANCE_NUMBER: Final = 0x00200013
_DIGITS_OF_IS: Final = 9


def judge(leaf: Leaf, keyring: Keyring) -> Outcome:
    """What a leaf is. Reads it once, decodes no pixel, never raises for what it finds."""
    extent = leaf.extent
    if extent is None:
        reason = leaf.refusal or QuarantineReason.NOT_REGULAR_FILE
        return Outcome(digest=_keyed(keyring, leaf.name), size=0, file=leaf.name, reason=reason)
    place = (extent.offset, extent.stored, extent.method, extent.size)
    try:
        data = container.read_extent(extent)
    except BadInstance as refused:
        name = _keyed(keyring, f"{extent.path}@{extent.offset}")
        return Outcome(digest=name, size=0, file=extent.path, place=place, reason=refused.reason)
    digest = hashlib.sha256(data).hexdigest()
    plain = Outcome(digest=digest, size=len(data), file=extent.path, place=place)
    try:
        return replace(plain, **_judged(leaf, data, keyring))
    except BadInstance as refused:
        return replace(plain, reason=refused.reason)
    except MemoryError:  # of this machine, not of the file: it is looked at again
        return replace(plain, reason=QuarantineReason.CHANGED_WHILE_READ)
    except Exception:  # noqa: BLE001 - one file must not stop a scan, and its text may quote the file
        return replace(plain, reason=QuarantineReason.CORRUPT_HEADER)


def _judged(leaf: Leaf, data: bytes, keyring: Keyring) -> dict[str, Any]:
    """Fields of the outcome that say what `data` is; `BadInstance` for what is refused."""
    rows = _rows(leaf, data)
    if rows is not None:
        return {"rows": rows}
    kind = images.media_type(data)
    if kind is not None:
        images.check(data, kind)
        return {"image": leaf.name}
    shape = structure.walk(data)
    instance.check(shape)
    marks = _marks(shape, data, keyring)
    if _is_structure_set(shape):
        return {"rows": [], "marks": marks}
    return {"header": _header(shape, keyring), "marks": marks}


def read_header(data: bytes, keyring: Keyring) -> Header:
    """Judge one file by its structure and give its handles; the pixels are skipped.

    Raises `BadInstance` for whatever `instance.parse` would refuse, and for what is no image of a
    known patient.
    """
    shape = structure.walk(data)
    instance.check(shape)
    return _header(shape, keyring)


def _marks(shape: Structure, data: bytes, keyring: Keyring) -> list[Mark]:
    """What a segmentation or structure set says of images; it must say whose they are."""
    if shape.text(instance.SOP_CLASS) not in references.CLASSES:
        return []
    patient_id, issuer = identity(shape)
    if not patient_id:
        raise BadInstance(QuarantineReason.NO_PATIENT)
    return references.marks(data, keyring.handle("pt", "patient", issuer, patient_id), keyring)


def _is_structure_set(shape: Structure) -> bool:
    return shape.text(instance.SOP_CLASS) == references.STRUCTURE_SET and structure.PIXEL_DATA not in shape.elements


def _header(shape: Structure, keyring: Keyring) -> Header:
    instance.check_image(shape)
    patient_id, issuer = identity(shape)
    study, series, uid = (shape.text(tag) for tag in (instance.STUDY, instance.SERIES, instance.SOP_INSTANCE))
    number = shape.text(_INSTANCE_NUMBER)
    plain = number.isascii() and number.isdecimal() and len(number) <= _DIGITS_OF_IS
    return Header(
        patient=keyring.handle("pt", "patient", issuer, patient_id),
        study=keyring.handle("st", "study", study),
        series=keyring.handle("se", "series", series),
        instance=keyring.handle("in", "instance", uid),
        number=int(number) if plain else -1,
        person=keyring.mac("person", shape.text(_PATIENT_NAME), shape.text(_BIRTH_DATE)).hex()[:16],
        patient_id=patient_id,
        issuer=issuer,
        names=(_decoded(shape, _ACCESSION_NUMBER), study, series, uid),
    )


def image_header(digest: str, card: Card, keyring: Keyring) -> Header:
    """The header that `read_header` would give of the wrapped image."""
    return Header(
        patient=keyring.handle("pt", "patient", card.issuer, card.patient_id),
        study=keyring.handle("st", "study", card.study),
        series=keyring.handle("se", "series", card.series),
        instance=keyring.handle("in", "instance", card.instance(digest)),
        number=card.number,
        person="",
        patient_id=card.patient_id,
        issuer=card.issuer,
    )


def content(outcome: Outcome, header: Header) -> tuple[str, ...] | None:
    """What makes two files the same instance: patient, study, series and decoded pixels; None where unreadable."""
    try:
        data = container.read_extent(Extent(outcome.file, *outcome.place), expected_sha256=outcome.digest)
        decoded = pixels.decode(instance.parse(data))
    except BadInstance:
        return None
    shape = str((decoded.frames.shape, decoded.frames.dtype.str, decoded.photometric))
    image = hashlib.sha256(decoded.frames.tobytes()).hexdigest()
    return header.patient, header.study, header.series, shape, image


def identity(shape: Structure) -> tuple[str, str]:
    """PatientID and IssuerOfPatientID as text, in the character set of the file."""
    return _decoded(shape, instance.PATIENT_ID), _decoded(shape, instance.ISSUER_OF_PATIENT_ID)


def is_media_directory(data: bytes) -> bool:
    """Whether a file is a DICOMDIR: its instances are found by looking, not by believing it."""
    if data[128:132] != b"DICM":
        return False
    try:
        meta, _ = structure.read_meta(data)
    except BadInstance:
        return False
    return meta.get(0x00020002, b"").rstrip(b"\0 ").decode("latin-1") == structure.MEDIA_DIRECTORY


def _rows(leaf: Leaf, data: bytes) -> list[dict[str, str]] | None:
    """Rows of a table of labels, none for a DICOMDIR, None for anything else."""
    if labels.looks_like_table(PurePosixPath(leaf.name).name):
        rows = labels.read_table(data, leaf.name)
        if rows is not None:
            return rows
    return [] if is_media_directory(data) else None


def _keyed(keyring: Keyring, place: str) -> str:
    """64 hex digits that stand for something without readable bytes."""
    return keyring.mac("unread-file", place).hex()


def _decoded(shape: Structure, tag: int) -> str:
    return charsets.text_of(shape.raw(tag) or b"", shape.raw(_CHARACTER_SET) or b"")
