"""Whom the client believes: pinned Ed25519 keys, and the highest index it has seen (no rollback).

A registry is named by its address. The first contact must bring the registry's public key
(`--trust PATH`, a PEM file that its publisher handed over by another way); the key is remembered
and from then on nothing that it did not sign is believed. A PEM file with two keys (pipeline, then
data-protection approver) asks for both signatures on every version.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medgan.client import disk
from medgan.errors import IntegrityError, UnusableKey
from medgan.records import Envelope, canonical_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

INDEX_TYPE = "application/vnd.medgan.index+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_KEYS_AT_MOST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What is known of one registry: its keys (PEM text, pipeline first) and the last index counter seen."""

    registry: str
    keys: tuple[str, ...]
    counter: int = 0


def home() -> Path:
    """Folder of pins: `MEDGAN_HOME`, else `$XDG_CONFIG_HOME/medgan`, else `~/.config/medgan`."""
    if named := os.environ.get("MEDGAN_HOME"):
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser().resolve() / "medgan"


def default_cache() -> Path:
    """Folder of pulled versions: `$MEDGAN_HOME/cache`, else `$XDG_CACHE_HOME/medgan`, else `~/.cache/medgan`."""
    if os.environ.get("MEDGAN_HOME"):
        return home() / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "medgan"


def recall(registry: str, *, pin: Path | None = None) -> Trust:
    """Trust in `registry`: what was pinned before, or the key of `pin`.

    A new pin is remembered (`remember`) once it opened something: a wrong file named once does no harm.
    `UnusableKey` when nothing was ever pinned, or `pin` is another key than the remembered one.
    """
    known = _read(registry)
    if pin is None:
        if known is None:
            raise UnusableKey(
                "this registry's public key is not known here: ask its publisher for pipeline.pub "
                "and name it once with --trust PATH (trust= in Python)"
            )
        return known
    keys = read_public(pin)
    if known is not None and known.keys != keys and not set(known.keys) < set(keys):
        raise UnusableKey(
            "another public key is pinned for this registry: if the publisher really changed it, "
            f"delete {_file(registry).name} below MEDGAN_HOME and pull again with --trust"
        )
    return Trust(registry=registry, keys=keys, counter=known.counter if known else 0)


def remember(trust: Trust) -> None:
    """Write the pin and the counter where they are new; the counter never goes down, whoever else writes it."""
    known = _read(trust.registry)
    if known is not None and known.keys == trust.keys and known.counter >= trust.counter:
        return
    file = _file(trust.registry)
    with disk.locked(file.with_name(".lock")):
        known = _read(trust.registry)
        counter = max(trust.counter, known.counter if known else 0)
        disk.write_file(
            file, canonical_json({"registry": trust.registry, "keys": list(trust.keys), "counter": counter})
        )


def last_registry() -> str | None:
    """The address pulled from last, so that later calls need not name it."""
    try:
        return (home() / "registry").read_text("utf-8", "replace").strip() or None
    except OSError:
        return None


def remember_registry(registry: str) -> None:
    """Make `registry` the one that later calls mean."""
    if last_registry() != registry:
        disk.write_file(home() / "registry", registry.encode() + b"\n")


def read_public(path: Path) -> tuple[str, ...]:
    """The one or two Ed25519 public keys of a file, each in one spelling of PEM; `UnusableKey` for anything else."""
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        raise UnusableKey(
            "the public key to trust cannot be read: --trust names a PEM file such as pipeline.pub"
        ) from None
    found = tuple(_spelled(match.group(0)) for match in _PEM.finditer(text))
    if not 1 <= len(found) <= _KEYS_AT_MOST:
        raise UnusableKey(f"the file to trust holds {len(found)} public keys: it must hold one or two (PEM)")
    if len(set(found)) < len(found):  # one signer would count as two
        raise UnusableKey("the file to trust holds one key twice: it must hold the pipeline's, then the approver's")
    return found


def key_id(pem: str) -> str:
    """Hex SHA-256 of the 32 raw bytes of a public key."""
    return hashlib.sha256(_load(pem).public_bytes_raw()).hexdigest()


def open_envelope(data: bytes, *, kind: str, keys: Sequence[str], what: str) -> bytes:
    """The payload of a DSSE envelope of type `kind` that every key of `keys` signed; else `IntegrityError`."""
    from pydantic import ValidationError

    try:
        envelope = Envelope.model_validate_json(data)
        signed, body = envelope.signed_bytes(), envelope.body()
    except (ValidationError, ValueError):
        raise IntegrityError(f"the signature file of {what} is malformed: it is not believed") from None
    if envelope.payloadType != kind:
        raise IntegrityError(f"the signature file of {what} signs something else: it is not believed")
    held = {signature.keyid: signature.sig for signature in envelope.signatures}
    good = sum(_signed(pem, held.get(key_id(pem)), signed) for pem in keys)
    if not keys or good != len(keys):
        raise IntegrityError(
            f"{what} carries {good} of the {max(1, len(keys))} signatures that are due from the pinned keys: "
            "it is not believed; ask the publisher"
        )
    return body


def _spelled(pem: str) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _load(pem).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip()


def _signed(pem: str, signature: str | None, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    if signature is None:
        return False
    try:
        _load(pem).verify(base64.b64decode(signature, validate=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _load(pem: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("a public key is malformed: it must be an Ed25519 key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UnusableKey("a public key is not an Ed25519 key: ask the publisher for the right file")
    return key


def _file(registry: str) -> Path:
    return home() / "trust" / f"{hashlib.sha256(registry.encode()).hexdigest()[:32]}.json"


def _read(registry: str) -> Trust | None:
    """What is remembered of a registry; a file that says nothing any more is as good as none: pin again."""
    with disk.explained():
        try:
            held = _file(registry).read_bytes()
        except FileNotFoundError:
            return None
    try:
        body = json.loads(held)
        return Trust(registry=registry, keys=tuple(map(str, body["keys"])), counter=int(body["counter"]))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
