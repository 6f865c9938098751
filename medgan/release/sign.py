"""Signatures of the publishing side: the pipeline's Ed25519 key, DSSE envelopes, in-toto statements.

A signature proves origin and integrity. It does not prove privacy, and every statement says so.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from medgan.client import disk, trust, verify
from medgan.errors import IntegrityError, UnusableKey
from medgan.records import Envelope, EnvelopeSignature, Manifest, canonical_json, sha256_hex
from medgan.settings import Zones
from medgan.sync import fsync_folder

PUBLIC_SUFFIX = ".pub"
MEANING = "Proves who published these bytes and that they are unchanged. It does not prove privacy."


def ensure_key(zones: Zones) -> Path:
    """Make the pipeline's key pair when it is missing; returns the public key's path, to hand to downstream teams."""
    return create_key(zones.signing_key)


def create_key(path: Path) -> Path:
    """Make an Ed25519 pair at `path` (PEM, mode 0600) and its `.pub` beside it; an existing key is kept."""
    public = path.with_suffix(PUBLIC_SUFFIX)
    with disk.explained():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            _place_new(path, pem)
    pem = public_pem(load_key(path))
    if not public.exists() or public.read_bytes() != pem:
        disk.write_file(public, pem)
    return public


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in `path`; `UnusableKey` when it is missing, shared with others, or not Ed25519."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        raise UnusableKey("the signing key cannot be opened: the first publication makes it, or restore it") from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UnusableKey("the signing key must be readable by its owner only (chmod 600)")
        pem = file.read(4096)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UnusableKey("the signing key must be an unencrypted Ed25519 key in PEM")
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """The public half of `key` in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def seal(kind: str, body: bytes, key: Ed25519PrivateKey) -> Envelope:
    """A DSSE envelope over `body`, signed once. Ed25519 is deterministic: the same bytes every time."""
    bare = Envelope(payloadType=kind, payload=base64.b64encode(body).decode(), signatures=())
    return add_signature(bare, key)


def add_signature(envelope: Envelope, key: Ed25519PrivateKey) -> Envelope:
    """The envelope with one more signature over the same bytes; a second one by the same key replaces the first."""
    keyid = sha256_hex(key.public_key().public_bytes_raw())
    sig = base64.b64encode(key.sign(envelope.signed_bytes())).decode()
    others = tuple(held for held in envelope.signatures if held.keyid != keyid)
    return envelope.model_copy(update={"signatures": (*others, EnvelopeSignature(keyid=keyid, sig=sig))})


def signed_by(envelope: bytes, pem: str, *, kind: str) -> bool:
    """Whether the public key `pem` signed a well-formed envelope of type `kind`."""
    try:
        trust.open_envelope(envelope, kind=kind, keys=(pem,), what="it")
    except IntegrityError:
        return False
    return True


def dump(envelope: Envelope) -> bytes:
    """Canonical JSON of an envelope."""
    return canonical_json(envelope.model_dump(mode="json"))


def statement(manifest: Manifest) -> bytes:
    """The in-toto Statement v1 over a manifest and every file it lists (in-toto.io/Statement/v1)."""
    subjects = [{"name": file.path, "digest": {"sha256": file.sha256}} for file in manifest.files]
    evidence = manifest.evidence
    body = {
        "_type": verify.STATEMENT,
        "subject": [{"name": verify.MANIFEST, "digest": {"sha256": manifest.digest}}, *subjects],
        "predicateType": verify.PREDICATE_TYPE,
        "predicate": {
            "name": manifest.name,
            "version": manifest.version,
            "created": manifest.created,
            "evidence": evidence.model_dump(mode="json") if evidence is not None else None,
            "meaning": MEANING,
        },
    }
    return canonical_json(body)


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The envelope over the statement about `manifest`."""
    return dump(seal(trust.STATEMENT_TYPE, statement(manifest), key))


def _place_new(path: Path, pem: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)  # unlike rename, never replaces a key that another process just made
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    fsync_folder(path.parent)
