"""The way back, for a site that must have one: which patient and study a pseudonym stands for, sealed.

There is no map unless somebody asks for one. It is one JSON file of mode 0600: pseudonym -> sealed original
(AES-256-GCM), so that what it says is read only with the map's key, which need not be the pseudonym key. Each question
is written into a chained log beside it, with who asked.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medgan.archive.storage import write_atomically
from medgan.deid import audit
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable
from medgan.keys import Keyring
from medgan.records import canonical_json

PURPOSE = "pseudonym-map"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Origin:
    """Whom and what an instance was taken from; its `repr` shows nothing."""

    issuer: str
    patient_id: str
    patient_name: str
    study_uid: str


def entries(origin: Origin, *, patient_key: str, study_key: str, days: int) -> dict[str, dict[str, str | int]]:
    """What a map says of one instance: of its patient and of its study."""
    return {
        patient_key: {
            "issuer": origin.issuer,
            "patient_id": origin.patient_id,
            "patient_name": origin.patient_name,
            "date_shift_days": days,
        },
        study_key: {"study_instance_uid": origin.study_uid, "patient": patient_key},
    }


def opened(path: Path, keyring: Keyring) -> dict[str, str]:
    """What the map at `path` holds, sealed; empty where there is none.

    Raises `UnusableKey` where it was begun with another key: two keys in one map would lose half of it.
    """
    sealed = _read(path) if path.exists() else {}
    if sealed:
        keyring.unseal(PURPOSE, base64.b64decode(next(iter(sealed.values()))))
    return sealed


def add(path: Path, fresh: Mapping[str, Mapping[str, str | int]], keyring: Keyring) -> int:
    """Add what the map at `path` does not say yet; returns how many pseudonyms it then holds."""
    with _alone(path):
        sealed = opened(path, keyring)
        for pseudonym, said in fresh.items():
            if pseudonym not in sealed:
                sealed[pseudonym] = base64.b64encode(keyring.seal(PURPOSE, canonical_json(dict(said)))).decode()
        write_atomically(path, canonical_json({"schema_version": SCHEMA_VERSION, "sealed": sealed}))
    return len(sealed)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other run adds to the map: what is written last would otherwise be all there is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        raise StoreUnavailable("the map's folder cannot be written: check its permissions, then run again") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def look_up(path: Path, pseudonym: str, keyring: Keyring, *, reviewer: str) -> dict[str, str | int]:
    """What `pseudonym` (`pt-` or `st-`) stands for; that `reviewer` asked is written down first.

    Raises `InvalidRequest` for an unknown pseudonym or a nameless reviewer, `UnusableKey`, `IntegrityError`.
    """
    if not reviewer.strip():
        raise InvalidRequest("going back needs the name of who asks")
    if not path.is_file():
        raise InvalidRequest("there is no map at that place")
    sealed = _read(path).get(pseudonym)
    if sealed is None:
        raise InvalidRequest("the map does not know this pseudonym")
    said: dict[str, str | int] = json.loads(keyring.unseal(PURPOSE, base64.b64decode(sealed)))
    audit.append(path.with_name(path.name + ".audit"), {"pseudonym": pseudonym, "reviewer": reviewer})
    return said


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
        sealed: dict[str, str] = content["sealed"]
    except (OSError, ValueError, KeyError, TypeError):
        raise IntegrityError("the pseudonym map is no map or was damaged") from None
    return sealed
