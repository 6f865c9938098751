"""The publishing side of the registry's signed index: read, changed, written last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from medgan.client import trust
from medgan.client.index import ENVELOPE, FILE, LATEST, moment
from medgan.errors import IntegrityError
from medgan.records import Envelope, Index, IndexDataset, IndexVersion, ReleaseStatus
from medgan.release import sign, version
from medgan.release.stores import Held, Store

VALID_DAYS = 30
"""How long an index is believed after the night that wrote it; a nightly registry renews it 30 times over."""


def read(store: Store, key: Ed25519PrivateKey) -> tuple[Index | None, Held | None]:
    """The index of a registry with the envelope it came in, or Nones when nothing was published.

    `IntegrityError` unless `key` signed it.
    """
    held = store.read(ENVELOPE)
    if held is None:
        return None, None
    return believed(held, sign.public_pem(key).decode()), held


def believed(held: Held, pem: str) -> Index:
    """The index in an envelope that the public key `pem` signed; else `IntegrityError`."""
    if not sign.signed_by(held.body, pem, kind=trust.INDEX_TYPE):
        raise IntegrityError(
            "this registry's index is not signed by this pipeline's key: restore that key, or, when it was replaced, "
            "sign the registry anew (medgan resign)"
        )
    try:
        return Index.model_validate_json(Envelope.model_validate_json(held.body).body())
    except ValidationError:
        raise IntegrityError("this registry's index is malformed: restore it from a copy") from None


def dataset(index: Index | None, name: str) -> IndexDataset | None:
    """The entry of one data set, if there is one."""
    return next((entry for entry in index.datasets if entry.name == name), None) if index else None


def with_version(index: Index | None, base: IndexDataset, added: IndexVersion, *, created: str) -> Index:
    """The index with `added` in the data set described by `base`; older active versions become superseded."""
    held = dataset(index, base.name)
    kept = {"versions": (*held.versions, added), "channels": held.channels} if held else {"versions": (added,)}
    return with_dataset(index, base.model_copy(update=kept), created=created)


def with_dataset(index: Index | None, entry: IndexDataset, *, created: str) -> Index:
    """The index with `entry` in place of the one of that name, statuses and channels set, counter one higher."""
    entry = _settled(entry)
    others = tuple(held for held in (index.datasets if index else ()) if held.name != entry.name)
    return _dated(index, tuple(sorted((*others, entry), key=lambda held: held.name)), created=created)


def renewed(index: Index, *, created: str) -> Index:
    """The same index, valid anew from `created`, counter one higher."""
    return _dated(index, index.datasets, created=created)


def _dated(index: Index | None, datasets: tuple[IndexDataset, ...], *, created: str) -> Index:
    written = max(moment(created), moment(index.created)) if index else moment(created)
    return Index(
        counter=index.counter + 1 if index else 1,
        created=stamp(written),
        expires=stamp(written + timedelta(days=VALID_DAYS)),
        datasets=datasets,
    )


def files(index: Index, key: Ed25519PrivateKey) -> dict[str, bytes]:
    """`index.json` for people, and the signed envelope that clients believe."""
    body = index.canonical()
    return {FILE: body, ENVELOPE: sign.dump(sign.seal(trust.INDEX_TYPE, body, key))}


def stamp(when: datetime) -> str:
    """UTC, ISO 8601, seconds, with a Z."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _settled(entry: IndexDataset) -> IndexDataset:
    """Statuses that follow: the highest version in force is active and latest. Other channels are people's to move."""
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
    promoted = {channel: number for channel, number in entry.channels.items() if channel != LATEST}
    channels = promoted | ({LATEST: latest} if latest else {})
    return entry.model_copy(update={"versions": versions, "channels": channels})
