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
from medgan.records import Envelope, Index, IndexVersion, sha256_hex
from medgan.release import index, publish, sign
from medgan.release.stores import Store, open_store
from medgan.settings import Zones


def resign(old: Path, *, zones: Zones, now: datetime | None = None) -> Index:
    """Sign the registry anew with the pipeline's key of today, which is made where it is missing.

    `old` is the public key (PEM) that signed until now; its signatures go, an approver's stay. Killed in between,
    the next call goes on; a registry that is signed anew already stays as it is. Gives the index in force.

    Raises:
        IntegrityError: the index is signed by neither key; or a version is, or is damaged: then the others are signed.
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
        broken = []
        for entry in table.datasets:
            standing = set(store.versions(entry.name))
            broken += [
                f"{entry.name}@{known.version}"
                for known in entry.versions
                if known.version in standing and not _sign_version(store, entry.name, known, key, (today, before))
            ]
        if done:
            publish.mend(store, table, key)
        else:
            table = index.renewed(table, created=index.stamp(now or datetime.now(UTC)))
            publish.write_index(store, table, held, key)
    if broken:
        raise IntegrityError(
            f"damaged, or signed by neither key, and so left as it is: {', '.join(broken)}. Restore it from a copy and "
            "sign again, or withdraw and erase it; everything else is signed anew"
        )
    return table


def _sign_version(store: Store, name: str, known: IndexVersion, key: Ed25519PrivateKey, keys: tuple[str, str]) -> bool:
    """Replace the old signature over the statement that the index means; False where no key signed just that."""
    path = f"{name}/{known.version}/{verify.ENVELOPE}"
    held, listed = store.read(path), store.read(f"{name}/{known.version}/{verify.MANIFEST}")
    if held is None or listed is None or sha256_hex(listed.body) != known.manifest_sha256:
        return False
    signer = next((pem for pem in keys if sign.signed_by(held.body, pem, kind=trust.STATEMENT_TYPE)), None)
    if signer is None:
        return False
    try:
        verify.read_manifest(listed.body, held.body, keys=(signer,), name=name, version=known.version)
    except IntegrityError:
        return False
    envelope = Envelope.model_validate_json(held.body)
    kept = tuple(given for given in envelope.signatures if given.keyid != trust.key_id(keys[1]))
    anew = sign.dump(sign.add_signature(envelope.model_copy(update={"signatures": kept}), key))
    if anew != held.body:
        store.replace(path, anew, held)
    return True
