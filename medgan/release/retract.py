"""After publication: withdraw a version, or add the approver's signature to one that waits for it.

A version's files never change. What changes is what the signed index says of it, and the set of
signatures over its unchanged statement.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from medgan.client import disk, verify
from medgan.client.index import parse_spec
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Envelope, Index, IndexDataset, IndexVersion, ReleaseStatus
from medgan.release import catalogue, index, sign
from medgan.settings import Zones

LOCK = ".lock"
_BUSY = "a publication is under way in this registry: wait for it, then run again"
_LONGEST_REASON = 500


def withdraw(spec: str, reason: str, *, zones: Zones, erase: bool = False, now: datetime | None = None) -> IndexVersion:
    """Mark `NAME@1.2.3` withdrawn for `reason`: every client refuses it from then on, its number is never reused.

    `erase` deletes its files too, once the tombstone stands. Withdrawing twice changes nothing.
    """
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= _LONGEST_REASON:
        raise InvalidRequest(f"a withdrawal needs a reason of 1 to {_LONGEST_REASON} characters: readers will see it")
    key = sign.load_key(zones.signing_key)
    with disk.locked(zones.registry / LOCK, busy=_BUSY), disk.explained():
        table, entry, found = _find(spec, index.read(zones.registry, key))
        gone = found.model_copy(update={"status": ReleaseStatus.WITHDRAWN, "reason": found.reason or reason})
        if gone != found:
            _rewrite(zones, table, entry, gone, now=now)
        if erase:
            shutil.rmtree(zones.registry / entry.name / gone.version, ignore_errors=True)
    return gone


def approve(spec: str, *, key: Path, zones: Zones, now: datetime | None = None) -> IndexVersion:
    """Add the approver's signature to `NAME@1.2.3` and put the version in force.

    The whole version is verified first; what is signed is the pipeline's statement, unchanged.
    `InvalidRequest` when the approver's key is the pipeline's own.
    """
    pipeline, approver = sign.load_key(zones.signing_key), sign.load_key(key)
    keys = tuple(sign.public_pem(one).decode() for one in (pipeline, approver))
    if keys[0] == keys[1]:
        raise InvalidRequest("the approver must sign with a key of their own, not the pipeline's")
    with disk.locked(zones.registry / LOCK, busy=_BUSY), disk.explained():
        table, entry, found = _find(spec, index.read(zones.registry, pipeline))
        if found.status is ReleaseStatus.WITHDRAWN:
            raise InvalidRequest("a withdrawn version cannot be approved: publish the next one")
        folder = zones.registry / entry.name / found.version
        disk.sweep(folder)
        verify.verify_folder(folder, keys=keys[:1], name=entry.name, version=found.version)
        envelope = sign.add_signature(_envelope(folder / verify.ENVELOPE), approver)
        disk.write_file(folder / verify.ENVELOPE, sign.dump(envelope))
        verify.verify_folder(folder, keys=keys, name=entry.name, version=found.version)
        approved = found.model_copy(update={"status": ReleaseStatus.ACTIVE, "signatures": 2})
        if found.status is ReleaseStatus.PENDING or found.signatures != approved.signatures:
            _rewrite(zones, table, entry, approved, now=now)
    return approved


def _find(spec: str, table: Index | None) -> tuple[Index, IndexDataset, IndexVersion]:
    name, number = parse_spec(spec)
    entry = index.dataset(table, name)
    found = next((held for held in entry.versions if held.version == number), None) if entry else None
    if table is None or entry is None or found is None:
        raise InvalidRequest("no such version is published here: name one exactly, as NAME@1.2.3")
    return table, entry, found


def _rewrite(zones: Zones, table: Index, entry: IndexDataset, changed: IndexVersion, *, now: datetime | None) -> None:
    """The index with one version's entry changed, written as a publication writes it: envelope last."""
    versions = tuple(changed if held.version == changed.version else held for held in entry.versions)
    moved = entry.model_copy(update={"versions": versions})
    table = index.with_dataset(table, moved, created=index.stamp(now or datetime.now(UTC)))
    catalogue.write_registry(zones.registry, table)
    index.write(zones.registry, table, sign.load_key(zones.signing_key))


def _envelope(path: Path) -> Envelope:
    try:
        return Envelope.model_validate_json(path.read_bytes())
    except ValidationError:
        raise IntegrityError("the signature file of this version is malformed: restore it from a copy") from None
