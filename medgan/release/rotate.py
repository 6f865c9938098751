"""Another signing key: what the old one signed is signed by today's, version by version, the index last.

A lost or stolen key is replaced this way: nothing that was published moves, and clients pin the new public key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medgan.client import trust, verify
from medgan.client.index import ENVELOPE
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Envelope, Index
from medgan.release import index, publish, sign
from medgan.release.stores import Store, open_store
from medgan.settings import Zones


def resign(old: Path, *, zones: Zones, now: datetime | None = None) -> Index:
    """Sign the registry anew with the pipeline's key of today, which is made where it is missing.

    `old` is the public key (PEM) that signed until now; its signatures go, an approver's stay. Killed in between,
    the next call goes on; a registry that is signed anew already stays as it is. Gives the index in force.

    Raises:
        IntegrityError: the index or a version is signed by neither key.
        InvalidRequest: nothing is published.
    """
    sign.ensure_key(zones)
    key = sign.load_key(zones.signing_key)
    before, today = trust.read_public(old)[0], sign.public_pem(key).decode()
    store = open_store(zones)
    with store.turn():
        held = store.read(ENVELOPE)
        if held is None:
            raise InvalidRequest("nothing is published here yet: there is nothing to sign anew")
        done = sign.signed_by(held.body, today, kind=trust.INDEX_TYPE)
        table = index.believed(held, today if done else before)
        for entry in table.datasets:
            for number in {known.version for known in entry.versions} & set(store.versions(entry.name)):
                _sign_version(store, f"{entry.name}/{number}/{verify.ENVELOPE}", key, today=today, before=before)
        if not done:
            table = index.renewed(table, created=index.stamp(now or datetime.now(UTC)))
            publish.write_index(store, table, held, key)
    return table


def _sign_version(store: Store, path: str, key: Ed25519PrivateKey, *, today: str, before: str) -> None:
    """Replace one signature over a version's unchanged statement."""
    held = store.read(path)
    if held is None or not any(sign.signed_by(held.body, pem, kind=trust.STATEMENT_TYPE) for pem in (today, before)):
        raise IntegrityError("a version is signed by neither key: restore it from a copy, or withdraw and erase it")
    envelope = Envelope.model_validate_json(held.body)
    kept = tuple(given for given in envelope.signatures if given.keyid != trust.key_id(before))
    anew = sign.dump(sign.add_signature(envelope.model_copy(update={"signatures": kept}), key))
    if anew != held.body:
        store.replace(path, anew, held)
