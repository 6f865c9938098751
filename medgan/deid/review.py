"""What people decide about quarantined files: a record of each decision, chained like the audit.

`release` says that somebody looked and found nothing that identifies; the next ingest lets that refusal,
BURNED_IN or FACE, pass, and no other. `reject` says that it stays out for good. Nothing else is ever let
through: a file that cannot be read cannot be released.
"""

from __future__ import annotations

from pathlib import Path

from medgan.archive import quarantine
from medgan.archive.storage import write_atomically
from medgan.deid import audit
from medgan.errors import InvalidRequest
from medgan.keys import Keyring
from medgan.records import QuarantineReason, QuarantineRecord
from medgan.settings import Zones

PICTURE = "quarantine-picture"
"""Purpose under which pictures are sealed."""
RELEASE, REJECT = "release", "reject"
RELEASABLE = frozenset((QuarantineReason.BURNED_IN, QuarantineReason.FACE))


def decisions_folder(zones: Zones) -> Path:
    """Where the chained decisions lie."""
    return quarantine.folder(zones) / "decisions"


def pending(zones: Zones) -> list[tuple[QuarantineRecord, str]]:
    """Every quarantine record with the latest decision on it (empty where there is none), by digest.

    `InvalidRequest` where there is no identified zone: an empty list would say that nothing was refused.
    """
    if not zones.identified.is_dir():
        raise InvalidRequest("this workspace has no identified zone: nothing was scanned here, or its path is another")
    decided, released = decisions(zones), releases(zones)
    records = [
        QuarantineRecord.model_validate_json(path.read_bytes())
        for path in sorted(quarantine.folder(zones).glob("*.json"))
    ]

    def latest(record: QuarantineRecord) -> str:
        """A release for another reason decides nothing about this one."""
        decision = decided.get(record.sha256, "")
        return "" if decision == RELEASE and record.reason not in released[record.sha256] else decision

    return [(record, latest(record)) for record in records]


def find(zones: Zones, prefix: str) -> QuarantineRecord:
    """The record whose digest starts with `prefix` (at least 6 hex digits)."""
    minimum = 6
    found = [record for record, _ in pending(zones) if record.sha256.startswith(prefix)]
    if len(prefix) < minimum or len(found) != 1:
        raise InvalidRequest(f"{len(found)} quarantined files start so: give at least {minimum} digits of one digest")
    return found[0]


def decide(zones: Zones, prefix: str, decision: str, *, reviewer: str) -> QuarantineRecord:
    """Write down that `reviewer` releases or rejects one file."""
    record = find(zones, prefix)
    if decision == RELEASE and record.reason not in RELEASABLE:
        raise InvalidRequest(f"a file refused for {record.reason} cannot be released: it is not readable or not clean")
    if not reviewer.strip():
        raise InvalidRequest("a decision needs the name of who took it")
    line = {"sha256": record.sha256, "reason": record.reason.value, "decision": decision, "reviewer": reviewer}
    audit.append(decisions_folder(zones), line)
    return record


def decisions(zones: Zones) -> dict[str, str]:
    """Latest decision by digest; `IntegrityError` where the log was tampered with."""
    folder = decisions_folder(zones)
    audit.verify(folder)
    return {entry["sha256"]: entry["decision"] for entry in audit.entries(folder)}


def releases(zones: Zones) -> dict[str, frozenset[str]]:
    """Reasons that each file was released for, by digest; a rejection takes all of them back.

    `IntegrityError` where the log was tampered with.
    """
    folder = decisions_folder(zones)
    audit.verify(folder)
    released: dict[str, frozenset[str]] = {}
    for entry in audit.entries(folder):
        known = released.get(entry["sha256"], frozenset())
        released[entry["sha256"]] = known | {entry["reason"]} if entry["decision"] == RELEASE else frozenset()
    return released


def rejected(zones: Zones) -> set[str]:
    """Digests of what a reviewer keeps out for good."""
    return {sha256 for sha256, decision in decisions(zones).items() if decision == REJECT}


def is_released(zones: Zones, sha256: str) -> bool:
    """Whether somebody released this file after looking at it."""
    return decisions(zones).get(sha256) == RELEASE


def picture_path(zones: Zones, sha256: str) -> Path:
    """Where the sealed picture of a file refused as BURNED_IN lies."""
    return quarantine.folder(zones) / f"{sha256}.png.sealed"


def keep_picture(zones: Zones, sha256: str, data: bytes, keyring: Keyring) -> None:
    """Leave a picture of the refused instance `data` for the reviewer, sealed: it may show a name.

    Raises `BadInstance` where the instance cannot be decoded. Saying it twice changes nothing.
    """
    from medgan.deid import burned_in

    path = picture_path(zones, sha256)
    if not path.exists():
        write_atomically(path, keyring.seal(PICTURE, burned_in.picture(data)))


def write_picture(zones: Zones, sha256: str, target: Path, keyring: Keyring) -> None:
    """Unseal the picture of a refused file to `target` (PNG, mode 0600), outside of the zones.

    Raises `InvalidRequest` where there is no picture, or `target` is there already or lies in a zone;
    `UnusableKey` with a key that is not the ingest's.
    """
    sealed = picture_path(zones, sha256)
    if not sealed.is_file():
        raise InvalidRequest("there is no picture of this file: only what was refused as BURNED_IN leaves one")
    roots = (zones.identified, zones.pseudonymised, zones.synthetic, zones.published, zones.keys)
    if any(root in target.resolve().parents for root in roots):
        raise InvalidRequest("the picture may show a name: write it outside of the workspace")
    if target.exists():
        raise InvalidRequest("a file of that name stands there already: choose another")
    write_atomically(target, keyring.unseal(PICTURE, sealed.read_bytes()))
