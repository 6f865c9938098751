"""Pseudonyms: keyed, consistent everywhere the key is, and none predicts another.

Each kind has its own sub-key (`medgan.keys`): handles of patient, study, series and instance, replacement
UIDs, and the date shift. Patient ids are scoped by their issuer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from medgan.keys import Keyring

# A shift must not be guessable from seasons or a known epoch: 1 to 10 years back, in whole days, so that
# times of day, weekdays aside, and every interval of one patient stay exact.
MIN_SHIFT_DAYS = 365
MAX_SHIFT_DAYS = 3652
_UID_CACHE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """One patient: opaque key, and by how many days its dates move (negative: into the past)."""

    key: str
    date_shift_days: int


@functools.lru_cache(maxsize=_UID_CACHE)
def replacement_uid(keyring: Keyring, uid: str) -> str:
    """UID under 2.25 (UUID-derived, PS3.5 B.2) for `uid`; the same for one key, everywhere."""
    raw = bytearray(keyring.mac("uid", uid)[:16])
    raw[6] = raw[6] & 0x0F | 0x40  # RFC 4122 version 4
    raw[8] = raw[8] & 0x3F | 0x80  # and its variant
    return f"2.25.{int.from_bytes(raw)}"


@functools.lru_cache(maxsize=4096)
def patient(keyring: Keyring, issuer: str, patient_id: str) -> Patient:
    """Pseudonym and date shift of the patient whom `issuer` calls `patient_id`."""
    key = keyring.handle("pt", "patient", issuer, patient_id)
    drawn = int.from_bytes(keyring.mac("date-shift", issuer, patient_id)[:8])
    return Patient(key=key, date_shift_days=-(MIN_SHIFT_DAYS + drawn % (MAX_SHIFT_DAYS - MIN_SHIFT_DAYS + 1)))


@functools.lru_cache(maxsize=4096)
def study_key(keyring: Keyring, uid: str) -> str:
    """Handle of a study; equal to the archive's."""
    return keyring.handle("st", "study", uid)


@functools.lru_cache(maxsize=4096)
def series_key(keyring: Keyring, uid: str) -> str:
    """Handle of a series."""
    return keyring.handle("se", "series", uid)


def instance_key(keyring: Keyring, uid: str) -> str:
    """Handle of an instance."""
    return keyring.handle("in", "instance", uid)
