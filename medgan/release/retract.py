"""After publication: withdraw or promote a version, add the approver's signature to one that waits, renew the index.

A version's files never change. What changes is what the signed index says of it, and the set of
signatures over its unchanged statement.
"""

from __future__ import annotations

import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from medgan.client import disk, pull, verify
from medgan.client.index import ENVELOPE, LATEST, moment, parse_spec
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Envelope, Index, IndexDataset, IndexVersion, ReleaseStatus
from medgan.release import index, publish, sign
from medgan.release.stores import FolderStore, Held, Store, open_store
from medgan.settings import Zones

_LONGEST_REASON = 500


def withdraw(spec: str, reason: str, *, zones: Zones, erase: bool = False, now: datetime | None = None) -> IndexVersion:
    """Mark `NAME@1.2.3` withdrawn for `reason`: every client refuses it from then on, its number is never reused.

    `erase` deletes its files too, once the tombstone stands. Withdrawing twice changes nothing.
    """
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= _LONGEST_REASON:
        raise InvalidRequest(f"a withdrawal needs a reason of 1 to {_LONGEST_REASON} characters: readers will see it")
    key, store = sign.load_key(zones.signing_key), open_store(zones)
    with store.turn():
        table, held = index.read(store, key)
        table, entry, found = _find(spec, table)
        gone = found.model_copy(update={"status": ReleaseStatus.WITHDRAWN, "reason": found.reason or reason})
        table = _rewrite(store, table, held, _with(entry, gone), key, now=now)
        if erase:
            store.erase(entry.name, gone.version)
            publish.mend(store, table, key)  # the catalogue links to it no longer
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
    store = open_store(zones)
    with store.turn():
        table, held = index.read(store, pipeline)
        table, entry, found = _find(spec, table)
        if found.status is ReleaseStatus.WITHDRAWN:
            raise InvalidRequest("a withdrawn version cannot be approved: publish the next one")
        _verify(store, entry, found, keys=keys[:1])
        path = f"{entry.name}/{found.version}/{verify.ENVELOPE}"
        before = store.read(path)
        if before is None:
            raise IntegrityError("the signature file of this version is missing: restore it from a copy")
        store.replace(path, sign.dump(sign.add_signature(_envelope(before), approver)), before)
        _verify(store, entry, found, keys=keys)
        status = ReleaseStatus.ACTIVE if found.status is ReleaseStatus.PENDING else found.status
        approved = found.model_copy(update={"status": status, "signatures": 2})
        _rewrite(store, table, held, _with(entry, approved), pipeline, now=now)
    return approved


def promote(spec: str, channel: str, *, zones: Zones, now: datetime | None = None) -> IndexDataset:
    """Make `channel` (stable, ...) name `NAME@1.2.3` until somebody promotes another version, older ones included.

    No publication moves it. `InvalidRequest` for a version that is withdrawn or waits for its approver, and for
    `latest`, which follows publications. Promoting twice changes nothing.
    """
    if channel == LATEST or not re.fullmatch(r"[a-z][a-z-]{0,30}", channel):
        raise InvalidRequest("a channel is named by small letters, for example stable; latest moves by itself")
    key, store = sign.load_key(zones.signing_key), open_store(zones)
    with store.turn():
        table, held = index.read(store, key)
        table, entry, found = _find(spec, table)
        if found.status in {ReleaseStatus.WITHDRAWN, ReleaseStatus.PENDING}:
            raise InvalidRequest(f"a version that is {found.status} is not promoted: name one that is in force")
        moved = entry.model_copy(update={"channels": entry.channels | {channel: found.version}})
        _rewrite(store, table, held, moved, key, now=now)
    return moved


def renew(*, zones: Zones, now: datetime | None = None) -> Index:
    """Sign the registry's index again, valid from `now` (UTC, default the clock): for a registry that rests.

    Clients refuse an index that is older than its expiry, because a newer one may be held back from them.
    """
    key, store = sign.load_key(zones.signing_key), open_store(zones)
    with store.turn():
        table, held = index.read(store, key)
        if table is None:
            raise InvalidRequest("nothing is published here yet: there is no index to renew")
        table = index.renewed(table, created=index.stamp(now or datetime.now(UTC)))
        publish.write_index(store, table, held, key)
    return table


def renew_when_due(*, zones: Zones, now: datetime | None = None) -> Index | None:
    """`renew` where less than half of the index's time is left; None where more is, or nothing is published."""
    now = now or datetime.now(UTC)
    store = open_store(zones)
    with store.turn():
        published = store.read(ENVELOPE) is not None
        table = index.read(store, sign.load_key(zones.signing_key))[0] if published else None
    if table is None or moment(table.expires) - now > timedelta(days=index.VALID_DAYS) / 2:
        return None
    return renew(zones=zones, now=now)


def _verify(store: Store, entry: IndexDataset, found: IndexVersion, *, keys: tuple[str, ...]) -> None:
    """Every byte of a published version as a client would check it; from an object store a copy is pulled for it."""
    if isinstance(store, FolderStore):
        disk.sweep(store.root / entry.name / found.version)  # what a killed approval left
        verify.verify_folder(store.root / entry.name / found.version, keys=keys, name=entry.name, version=found.version)
        return
    with tempfile.TemporaryDirectory(prefix="medgan-approve-") as name:
        pull.fetch(store.source, entry.name, found, keys=keys, folder=Path(name) / "version")


def _find(spec: str, table: Index | None) -> tuple[Index, IndexDataset, IndexVersion]:
    name, number = parse_spec(spec)
    entry = index.dataset(table, name)
    found = next((held for held in entry.versions if held.version == number), None) if entry else None
    if table is None or entry is None or found is None:
        raise InvalidRequest("no such version is published here: name one exactly, as NAME@1.2.3")
    return table, entry, found


def _rewrite(
    store: Store,
    table: Index,
    held: Held | None,
    entry: IndexDataset,
    key: Ed25519PrivateKey,
    *,
    now: datetime | None,
) -> Index:
    """The index with one data set's entry changed, written as a publication writes it.

    One that says so already stays: a run that was killed behind it left pages to be written.
    """
    if entry == index.dataset(table, entry.name):
        publish.mend(store, table, key)
        return table
    table = index.with_dataset(table, entry, created=index.stamp(now or datetime.now(UTC)))
    publish.write_index(store, table, held, key)
    return table


def _with(entry: IndexDataset, changed: IndexVersion) -> IndexDataset:
    versions = tuple(changed if known.version == changed.version else known for known in entry.versions)
    return entry.model_copy(update={"versions": versions})


def _envelope(held: Held) -> Envelope:
    try:
        return Envelope.model_validate_json(held.body)
    except ValidationError:
        raise IntegrityError("the signature file of this version is malformed: restore it from a copy") from None
