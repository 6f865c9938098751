"""Look at every file of a source: judge it, digest it, group it; decode nothing.

What leaves is a `ScanReport` of counts. The index (places, handles) and the label rows are sealed
in the identified zone. The same source gives the same scan, whatever the order of its files, and a
file that did not change since the last scan is not read again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from medgan.archive import (
    container,
    drop,
    fetch,
    images,
    intake,
    judge,
    labels,
    landing,
    limits,
    memory,
    quarantine,
    sources,
)
from medgan.archive.images import Card
from medgan.archive.intake import ISSUER_COLUMN
from medgan.archive.memory import Header, Outcome, Stamp
from medgan.archive.place import Place
from medgan.archive.references import Mark
from medgan.errors import StoreUnavailable, UnusableArchive
from medgan.keys import Keyring
from medgan.records import ArchiveRef, QuarantineReason, QuarantineRecord, ScanReport
from medgan.settings import Zones

_PROGRESS_EVERY: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """What every step of one scan needs."""

    ref: ArchiveRef
    place: Place
    root: Path
    spool: Path
    zones: Zones
    keyring: Keyring

    def relative(self, file: str) -> str:
        return intake.relative(file, self.root, self.spool)


@dataclass(slots=True)
class _Findings:
    """What a scan has seen so far."""

    files: int = 0
    bytes: int = 0
    tables: int = 0
    duplicates: int = 0
    waiting: int = 0
    kept: dict[str, tuple[Outcome, Header]] = field(default_factory=dict)  # by sha256
    refused: dict[str, QuarantineReason] = field(default_factory=dict)  # by sha256
    pictures: dict[str, Outcome] = field(default_factory=dict)  # by sha256, until a table names their patients
    cards: dict[str, Card] = field(default_factory=dict)  # by sha256
    rows: list[dict[str, str]] = field(default_factory=list)
    marks: set[Mark] = field(default_factory=set)
    issuers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, outcome: Outcome) -> None:
        """Sort one leaf into kept, duplicate, table or refused."""
        self.files += 1
        self.bytes += outcome.size
        self.marks.update(outcome.marks)
        if any(outcome.digest in known for known in (self.kept, self.refused, self.pictures)):
            self.duplicates += 1
        elif outcome.image:
            self.pictures[outcome.digest] = outcome
        elif outcome.header is not None:
            self.kept[outcome.digest] = (outcome, outcome.header)
            self.issuers[outcome.header.patient_id].add(outcome.header.issuer)
        elif outcome.rows is not None:
            self.tables += 1
            self.rows.extend(outcome.rows)
        else:
            self.refused[outcome.digest] = QuarantineReason(outcome.reason)

    @property
    def unlisted(self) -> bool:
        """Whether a folder could not be listed."""
        return QuarantineReason.UNREADABLE_FOLDER in self.refused.values()

    def name_pictures(self, keyring: Keyring) -> None:
        """Give each picture the patient that a table names; one without is refused.

        Where no table speaks of pictures they are not meant to be read: then they are merely no DICOM.
        While a folder cannot be listed, its tables may name what no other one does: such pictures wait.
        """
        cards = images.cards((one.image for one in self.pictures.values()), self.rows)
        unnamed = QuarantineReason.NO_PATIENT if cards else QuarantineReason.NOT_DICOM
        for digest, outcome in self.pictures.items():
            card = cards.get(outcome.image)
            if card is None and self.unlisted:
                self.waiting += 1
                self.files -= 1
                self.bytes -= outcome.size
            elif card is None:
                self.refused[digest] = unnamed
            else:
                self.cards[digest] = card
                self.kept[digest] = (outcome, judge.image_header(digest, card, keyring))
                self.issuers[card.patient_id].add(card.issuer)

    def settle_conflicts(self) -> None:
        """One SOPInstanceUID in several files: the same image packed in several ways is taken once.

        Two contents under one UID are a conflict: nobody can say which is true, so neither is taken.
        """
        by_instance: dict[str, list[str]] = defaultdict(list)
        for digest in sorted(self.kept):
            by_instance[self.kept[digest][1].instance].append(digest)
        for digests in by_instance.values():
            if len(digests) < 2:  # noqa: PLR2004 - alone
                continue
            contents = {judge.content(*self.kept[digest]) for digest in digests}
            same = len(contents) == 1 and None not in contents
            for digest in digests[1 if same else 0 :]:
                del self.kept[digest]
                if same:
                    self.duplicates += 1
                else:
                    self.refused[digest] = QuarantineReason.CONFLICT


def scan(
    ref: ArchiveRef,
    *,
    zones: Zones,
    keyring: Keyring,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScanReport:
    """Scan a registered source; seals its index and labels, records what was refused.

    A remote source is visited first. What it lists and did not deliver, what somebody still copies into a drop folder,
    and pictures whose table may lie in a folder that cannot be listed are counted as waiting and no part of the scan.
    `on_progress` gets (instances here, instances listed) of a visit, then (files seen, 0): the total of a stream is
    not known before its end.
    Raises, before anything is written, `UnusableArchive` where the source is missing, hostile or empty, and
    `StoreUnavailable` where one of its folders did not answer.
    """
    place = sources.place_of(ref.source, zones=zones, keyring=keyring)
    visit = fetch.fetch(ref, zones=zones, keyring=keyring, on_progress=on_progress)
    root = sources.locate(ref.source, zones=zones, keyring=keyring)
    desk = _Desk(ref=ref, place=place, root=root, spool=intake.spool(ref.source, zones), zones=zones, keyring=keyring)
    if not root.exists():
        message = "the archive does not exist any more: check its place and register it again"
        raise UnusableArchive(message)
    found = _Findings(waiting=visit.waiting)
    known = memory.recall(ref.source, zones=zones, keyring=keyring)
    seen: dict[str, tuple[Stamp, list[Outcome]]] = {}
    try:
        for outcome in _outcomes(desk, known, seen, found):
            found.add(outcome)
            if on_progress is not None and found.files % _PROGRESS_EVERY == 0:
                on_progress(found.files, 0)
    except (StoreUnavailable, UnusableArchive):
        memory.tidy(desk.spool, known)
        raise
    if not found.files and not (place.is_remote and landing.was_emptied(ref.source, zones)):
        message = "nothing has arrived yet: try again later" if found.waiting else "the archive is empty"
        raise UnusableArchive(message)
    if found.unlisted and not found.kept and not found.pictures:
        message = "folders of the source cannot be listed, and nothing else is in it: check its permissions"
        raise UnusableArchive(message)
    found.name_pictures(keyring)
    found.settle_conflicts()
    report = _write(desk, found)
    memory.remember(ref.source, seen, zones=zones, keyring=keyring)
    memory.tidy(desk.spool, seen, (outcome for outcome, _ in found.kept.values()))
    if on_progress is not None:
        on_progress(found.files, found.files)
    return report


def _outcomes(
    desk: _Desk,
    known: dict[str, tuple[Stamp, list[Outcome]]],
    seen: dict[str, tuple[Stamp, list[Outcome]]],
    found: _Findings,
) -> Iterator[Outcome]:
    """Outcomes of all leaves; those of unchanged files come from memory. Fills `seen`, counts what waits."""
    settle = drop.settle_seconds(desk.place) if desk.place.kind == "drop" else None
    names, most = {}, limits.MAX_MEMBERS
    if desk.place.is_remote:
        most = limits.MAX_LANDED
        names = landing.names(desk.ref.source, zones=desk.zones, keyring=desk.keyring)
    for path in container.files(desk.root, most=most):
        if settle is not None and drop.waits(path, settle):
            found.waiting += 1
            continue
        name, stamp = desk.relative(str(path)), container.stamp_of(path)
        if stamp is None and desk.place.is_remote and not container.is_folder(path):
            continue  # let go of since the folder was listed
        remembered = known.get(name)
        if remembered is not None and remembered[0] == stamp and _still_spooled(remembered[1], desk.spool):
            outcomes = remembered[1]
            yield from outcomes
        elif settle is not None:
            outcomes = list(_judged(desk, path, None))
            if drop.waits_for_its_rest(path, outcomes):
                found.waiting += 1
                continue
            yield from outcomes
        else:
            outcomes = []
            for outcome in _judged(desk, path, names.get(landing.handle_of(path))):
                outcomes.append(outcome)
                yield outcome
        transient = any(outcome.reason == QuarantineReason.CHANGED_WHILE_READ for outcome in outcomes)
        if stamp is not None and stamp == container.stamp_of(path) and not transient:
            seen[name] = (stamp, outcomes)


def _judged(desk: _Desk, path: Path, called: str | None) -> Iterator[Outcome]:
    """Every leaf of one file; `called` is what the sender of a landed file calls it."""
    for leaf in container.leaves_of(path, spool=desk.spool, alone=path == desk.root):
        named = replace(leaf, name=called) if called is not None and leaf.name == str(path) else leaf
        yield judge.judge(named, desk.keyring)


def _still_spooled(outcomes: list[Outcome], spool: Path) -> bool:
    files = {Path(outcome.file) for outcome in outcomes}
    return all(file.exists() for file in files if file.parent == spool)


def _write(desk: _Desk, found: _Findings) -> ScanReport:
    """Seal the index in an order that depends on contents only, record refusals, report counts."""
    order = sorted(found.kept, key=lambda digest: _place(found.kept[digest][1], digest))
    headers = [found.kept[digest][1] for digest in order]
    rows, studies, marks = _with_patients(found, headers), _studies(headers), sorted(found.marks)
    said = (*map(str, rows), *map(str, marks))
    scan_id = desk.keyring.handle("sc", "scan", desk.ref.source, *order, *sorted(found.refused), *said)
    places = [desk.relative(found.kept[digest][0].file) for digest in order]
    files = sorted(set(places))
    number_of = {file: number for number, file in enumerate(files)}
    instances = [
        (number_of[place], *found.kept[digest][0].place, digest, header.series, header.instance, _card(found, digest))
        for place, digest, header in zip(places, order, headers, strict=True)
    ]
    for digest, reason in sorted(found.refused.items()):
        quarantine.record(desk.zones, QuarantineRecord(sha256=digest, reason=reason, stage="scan"))
    refused = {digest: str(reason) for digest, reason in sorted(found.refused.items())}
    intake.save(
        scan_id, source=desk.ref.source, files=files, instances=instances, studies=studies,
        refused=refused, labels=rows, marks=marks, zones=desk.zones, keyring=desk.keyring,
    )  # fmt: skip
    people: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        people[header.patient].add(header.person)
    return ScanReport(
        source=desk.ref.source,
        scan_id=scan_id,
        files=found.files,
        instances=len(order),
        studies=len(studies),
        series=len({header.series for header in headers}),
        patients=len(people),
        label_rows=len(rows),
        bytes=found.bytes,
        rejected=dict(sorted(Counter(map(str, found.refused.values())).items())),
        duplicates=found.duplicates,
        tables=found.tables,
        ambiguous_patients=sum(len(persons) > 1 for persons in people.values()),
        waiting=found.waiting,
    )


def _card(found: _Findings, digest: str) -> dict[str, object] | None:
    card = found.cards.get(digest)
    return None if card is None else asdict(card)


def _place(header: Header, digest: str) -> tuple[str, str, int, str]:
    return header.study, header.series, header.number, digest


def _studies(headers: list[Header]) -> list[tuple[str, int, int]]:
    """Runs of one study: key, first and last+1 instance."""
    runs: list[tuple[str, int, int]] = []
    for number, header in enumerate(headers):
        if runs and runs[-1][0] == header.study:
            runs[-1] = (header.study, runs[-1][1], number + 1)
        else:
            runs.append((header.study, number, number + 1))
    return runs


def _with_patients(found: _Findings, headers: list[Header]) -> list[dict[str, str]]:
    """Label rows in a stable order, each with the patient id and issuer that the archive's own instances tell.

    A row that is keyed by accession number or UID gets the PatientID that goes with it; one that no
    instance or several patients go with stays as it is and will not match.
    """
    owners: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for header in headers:
        for name in header.names:
            owners[name].add((header.patient_id, header.issuer))
    rows = []
    for row in found.rows:
        named = [row[column] for column in labels.KEY_COLUMNS if row.get(column)]
        matching = next((owners[name] for name in named if len(owners.get(name, ())) == 1), set())
        patient, issuer = next(iter(matching), ("", ""))
        if row.get("PatientID"):
            known = found.issuers.get(row["PatientID"], set())
            patient, issuer = row["PatientID"], next(iter(known)) if len(known) == 1 else ""
        rows.append({**row, "PatientID": patient, ISSUER_COLUMN: row.get(ISSUER_COLUMN) or issuer})
    return sorted(rows, key=lambda row: sorted(row.items()))
