"""Look at every file of a source once: judge it, digest it, group it; decode nothing.

What leaves is a `ScanReport` of counts. The index (places, handles) and the label rows are sealed
in the identified zone. The same source gives the same scan, whatever the order of its files.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes

from medgan.archive import container, instance, intake, labels, quarantine, sources, structure
from medgan.archive.container import Extent, Leaf
from medgan.archive.intake import ISSUER_COLUMN
from medgan.archive.quiet import quietly
from medgan.archive.structure import Structure
from medgan.errors import BadInstance, UnusableArchive
from medgan.keys import Keyring
from medgan.records import ArchiveRef, QuarantineReason, QuarantineRecord, ScanReport
from medgan.settings import Zones

_CHARACTER_SET: Final = 0x00080005
_PATIENT_NAME: Final = 0x00100010
_BIRTH_DATE: Final = 0x00100030
_INSTANCE_NUMBER: Final = 0x00200013
_PROGRESS_EVERY: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What grouping needs of one instance; only keyed handles, so it may be kept for the whole scan."""

    patient: str
    study: str
    series: str
    instance: str
    number: int
    person: bytes = field(repr=False)


@dataclass(slots=True)
class _Findings:
    """What a scan has seen so far."""

    files: int = 0
    bytes: int = 0
    tables: int = 0
    duplicates: int = 0
    kept: dict[str, tuple[Extent, Header]] = field(default_factory=dict)  # by sha256
    refused: dict[str, QuarantineReason] = field(default_factory=dict)  # by sha256
    rejections: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, str]] = field(default_factory=list)
    issuers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def scan(
    ref: ArchiveRef,
    *,
    zones: Zones,
    keyring: Keyring,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScanReport:
    """Scan a registered source; seals its index and labels, records what was refused.

    `on_progress` gets (files seen, 0): the total of a stream is not known before its end.
    Raises `UnusableArchive` before anything is written where the source is missing, hostile or empty.
    """
    root = sources.locate(ref.source, zones=zones, keyring=keyring)
    if not root.exists():
        message = "the archive does not exist any more: check its place and register it again"
        raise UnusableArchive(message)
    found = _Findings()
    for leaf in container.leaves(root, spool=intake.spool(zones)):
        _look_at(leaf, root, found, keyring)
        found.files += 1
        if on_progress is not None and found.files % _PROGRESS_EVERY == 0:
            on_progress(found.files, 0)
    if not found.files:
        message = "the archive is empty"
        raise UnusableArchive(message)
    _refuse_conflicts(found)
    report = _write(ref, root, found, zones, keyring)
    if on_progress is not None:
        on_progress(found.files, found.files)
    return report


def _look_at(leaf: Leaf, root: Path, found: _Findings, keyring: Keyring) -> None:
    """Sort one leaf into kept, duplicate, table or refused."""
    try:
        data = _bytes_of(leaf)
    except BadInstance as refused:  # no bytes, no digest: a keyed one of the name stands for them
        place = str(leaf.name if leaf.extent is None else leaf.extent)
        _refuse(found, keyring.mac("unread-file", str(root), place).hex(), refused.reason)
        return
    found.bytes += len(data)
    digest = hashlib.sha256(data).hexdigest()
    if digest in found.kept or digest in found.refused:
        found.duplicates += 1
        return
    if _is_table(leaf, data, found):
        found.tables += 1
        return
    try:
        header = read_header(data, keyring, found.issuers)
    except BadInstance as refused:
        _refuse(found, digest, refused.reason)
        return
    if leaf.extent is not None:
        found.kept[digest] = (leaf.extent, header)


def _bytes_of(leaf: Leaf) -> bytes:
    if leaf.extent is None:
        raise BadInstance(leaf.refusal or QuarantineReason.NOT_REGULAR_FILE)
    return container.read_extent(leaf.extent)


def _refuse(found: _Findings, digest: str, reason: str) -> None:
    found.refused[digest] = QuarantineReason(reason)
    found.rejections[QuarantineReason(reason)] += 1


def _is_table(leaf: Leaf, data: bytes, found: _Findings) -> bool:
    """Whether a leaf is read, and no instance: a table of labels (its rows are taken) or a DICOMDIR."""
    if labels.looks_like_table(PurePosixPath(leaf.name).name):
        rows = labels.read_table(data)
        if rows is not None:
            found.rows.extend(rows)
            return True
    return is_media_directory(data)


def is_media_directory(data: bytes) -> bool:
    """Whether a file is a DICOMDIR: its instances are found by looking, not by believing it."""
    if data[128:132] != b"DICM":
        return False
    try:
        meta, _ = structure.read_meta(data)
    except BadInstance:
        return False
    return meta.get(0x00020002, b"").rstrip(b"\0 ").decode("latin-1") == structure.MEDIA_DIRECTORY


def read_header(data: bytes, keyring: Keyring, issuers: dict[str, set[str]] | None = None) -> Header:
    """Judge one file by its structure and give its handles; the pixels are skipped.

    Raises `BadInstance` for whatever `instance.parse` would refuse, and for what is no image of a
    known patient.
    """
    shape = structure.walk(data)
    instance.check(shape)
    instance.check_image(shape)
    patient, issuer = identity(shape)
    if issuers is not None:
        issuers[patient].add(issuer)
    study, series, uid = (shape.text(tag) for tag in (instance.STUDY, instance.SERIES, instance.SOP_INSTANCE))
    number = shape.text(_INSTANCE_NUMBER)
    return Header(
        patient=keyring.handle("pt", "patient", issuer, patient),
        study=keyring.handle("st", "study", study),
        series=keyring.handle("se", "series", series),
        instance=keyring.handle("in", "instance", uid),
        number=int(number) if number.isdecimal() and number.isascii() and len(number) < 10 else -1,  # noqa: PLR2004 - IS
        person=keyring.mac("person", shape.text(_PATIENT_NAME), shape.text(_BIRTH_DATE))[:8],
    )


def identity(shape: Structure) -> tuple[str, str]:
    """PatientID and IssuerOfPatientID as text, in the character set of the file."""
    return _decoded(shape, instance.PATIENT_ID), _decoded(shape, instance.ISSUER_OF_PATIENT_ID)


def _decoded(shape: Structure, tag: int) -> str:
    text = shape.text(tag)
    if text.isascii() and "\x1b" not in text:
        return text
    with quietly():
        encodings = convert_encodings(shape.text(_CHARACTER_SET).split("\\"))
        return str(decode_bytes(shape.raw(tag) or b"", encodings, {ord("\\")})).strip(" \0")


def _refuse_conflicts(found: _Findings) -> None:
    """One SOPInstanceUID with two contents: nobody can say which is true, so neither is taken."""
    by_instance: dict[str, list[str]] = defaultdict(list)
    for digest, (_, header) in found.kept.items():
        by_instance[header.instance].append(digest)
    for digests in by_instance.values():
        if len(digests) > 1:
            for digest in digests:
                del found.kept[digest]
                _refuse(found, digest, QuarantineReason.CONFLICT)


def _write(ref: ArchiveRef, root: Path, found: _Findings, zones: Zones, keyring: Keyring) -> ScanReport:
    """Seal the index in an order that depends on contents only, record refusals, report counts."""
    order = sorted(found.kept, key=lambda digest: _place(found.kept[digest][1], digest))
    rows = _with_issuers(found)
    scan_id = keyring.handle("sc", "scan", ref.source, *order, *sorted(found.refused), *map(str, rows))
    files = sorted({intake.relative(found.kept[digest][0].path, root, zones) for digest in order})
    number_of = {file: number for number, file in enumerate(files)}
    instances = []
    for digest in order:
        extent, header = found.kept[digest]
        file = number_of[intake.relative(extent.path, root, zones)]
        place = (file, extent.offset, extent.stored, extent.method, extent.size)
        instances.append((*place, digest, header.series, header.instance))
    headers = [found.kept[digest][1] for digest in order]
    studies = _studies(headers)
    for digest, reason in sorted(found.refused.items()):
        quarantine.record(zones, QuarantineRecord(sha256=digest, reason=reason, stage="scan"))
    refused = {digest: str(reason) for digest, reason in sorted(found.refused.items())}
    intake.save(
        scan_id, source=ref.source, files=files, instances=instances, studies=studies,
        refused=refused, labels=rows, zones=zones, keyring=keyring,
    )  # fmt: skip
    people = {header.patient: {other.person for other in group} for header, group in _by_patient(headers)}
    return ScanReport(
        source=ref.source,
        scan_id=scan_id,
        files=found.files,
        instances=len(order),
        studies=len(studies),
        series=len({header.series for header in headers}),
        patients=len(people),
        label_rows=len(rows),
        bytes=found.bytes,
        rejected=dict(sorted(found.rejections.items())),
        duplicates=found.duplicates,
        tables=found.tables,
        ambiguous_patients=sum(len(persons) > 1 for persons in people.values()),
    )


def _place(header: Header, digest: str) -> tuple[str, str, int, str]:
    return header.study, header.series, header.number, digest


def _by_patient(headers: Iterable[Header]) -> Iterable[tuple[Header, list[Header]]]:
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.patient].append(header)
    return [(group[0], group) for group in groups.values()]


def _studies(headers: list[Header]) -> list[tuple[str, int, int]]:
    """Runs of one study: key, first and last+1 instance."""
    runs: list[tuple[str, int, int]] = []
    for number, header in enumerate(headers):
        if runs and runs[-1][0] == header.study:
            runs[-1] = (header.study, runs[-1][1], number + 1)
        else:
            runs.append((header.study, number, number + 1))
    return runs


def _with_issuers(found: _Findings) -> list[dict[str, str]]:
    """Label rows in a stable order, each with the issuer that the archive's own instances give its id."""
    rows = []
    for row in found.rows:
        known = found.issuers.get(row.get("PatientID", ""), set())
        issuer = row.get(ISSUER_COLUMN) or (next(iter(known)) if len(known) == 1 else "")
        rows.append({**row, ISSUER_COLUMN: issuer})
    return sorted(rows, key=lambda row: sorted(row.items()))
