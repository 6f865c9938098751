"""The publishing side of the registry's signed index: read, changed, written last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from medgan.client import disk, trust
from medgan.client.index import ENVELOPE, FILE, moment
from medgan.errors import IntegrityError
from medgan.records import Index, IndexDataset, IndexVersion, ReleaseStatus
from medgan.release import sign, version

VALID_DAYS = 30
"""How long an index is believed after the night that wrote it; a nightly registry renews it 30 times over."""


def read(registry: Path, key: Ed25519PrivateKey) -> Index | None:
    """The index of a registry, or None when nothing was published; `IntegrityError` unless `key` signed it."""
    try:
        envelope = (registry / ENVELOPE).read_bytes()
    except FileNotFoundError:
        return None
    pem = sign.public_pem(key).decode()
    body = trust.open_envelope(envelope, kind=trust.INDEX_TYPE, keys=(pem,), what="this registry's index")
    try:
        return Index.model_validate_json(body)
    except ValidationError:
        raise IntegrityError("this registry's index is malformed: restore it from a copy") from None


def dataset(index: Index | None, name: str) -> IndexDataset | None:
    """The entry of one data set, if there is one."""
    return next((entry for entry in index.datasets if entry.name == name), None) if index else None


def with_version(index: Index | None, base: IndexDataset, added: IndexVersion, *, created: str) -> Index:
    """The index with `added` in the data set described by `base`; older active versions become superseded."""
    held = dataset(index, base.name)
    versions = [*(held.versions if held else ()), added]
    return with_dataset(index, base.model_copy(update={"versions": tuple(versions)}), created=created)


def with_dataset(index: Index | None, entry: IndexDataset, *, created: str) -> Index:
    """The index with `entry` in place of the one of that name, statuses and channels set, counter one higher."""
    entry = _settled(entry)
    others = tuple(held for held in (index.datasets if index else ()) if held.name != entry.name)
    written = max(moment(created), moment(index.created)) if index else moment(created)
    return Index(
        counter=index.counter + 1 if index else 1,
        created=stamp(written),
        expires=stamp(written + timedelta(days=VALID_DAYS)),
        datasets=tuple(sorted((*others, entry), key=lambda held: held.name)),
    )


def write(registry: Path, index: Index, key: Ed25519PrivateKey) -> None:
    """Write `index.json` for people, then the signed envelope that clients believe: that rename publishes."""
    body = index.canonical()
    disk.write_file(registry / FILE, body)
    disk.write_file(registry / ENVELOPE, sign.dump(sign.seal(trust.INDEX_TYPE, body, key)))


def stamp(when: datetime) -> str:
    """UTC, ISO 8601, seconds, with a Z."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _settled(entry: IndexDataset) -> IndexDataset:
    """Statuses and channels that follow: the highest version in force is active, latest and stable."""
    apart = (ReleaseStatus.WITHDRAWN, ReleaseStatus.PENDING)
    alive = [held.version for held in entry.versions if held.status not in apart]
    latest = max(alive, key=version.parse, default=None)
    versions = tuple(
        held
        if held.status in apart
        else held.model_copy(
            update={"status": ReleaseStatus.ACTIVE if held.version == latest else ReleaseStatus.SUPERSEDED}
        )
        for held in sorted(entry.versions, key=lambda held: version.parse(held.version))
    )
    channels = {"latest": latest, "stable": latest} if latest else {}
    return entry.model_copy(update={"versions": versions, "channels": channels})
