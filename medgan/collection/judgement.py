"""By whose rules an instance was refused: with the same rules the same bytes are refused again, so they are not tried.

The digest covers every file that judges or decides a pseudonym and the libraries that parse and decode, so that a new
version of any of them, or another profile, gives what was refused another chance. Nobody has to remember to raise a
number. It is taken when this module is imported: it tells what this process runs, not what an upgrade put in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from importlib import metadata
from typing import Final

from medgan import cluster
from medgan.archive import quarantine
from medgan.archive.intake import Intake
from medgan.deid import review
from medgan.errors import InvalidRequest
from medgan.records import QuarantineReason
from medgan.settings import Zones

_PARTS: Final = ("archive", "deid", "collection", "records", "keys.py", "settings.py", "errors.py")
_LIBRARIES: Final = ("pydicom", "imagecodecs", "numpy", "rapidocr", "onnxruntime")
PASSING: Final = frozenset({QuarantineReason.TIMEOUT, QuarantineReason.CHANGED_WHILE_READ, QuarantineReason.CONFLICT})
"""Reasons that may be gone tomorrow: a busy machine, a file in the making, an instance that was erased since."""


def rules(profile_digest: str) -> str:
    """Digest of everything that decides whether an instance is refused."""
    return hashlib.sha256(f"{profile_digest}:{_CODE}".encode()).hexdigest()


def agree(profile_digest: str, judged_by: str) -> None:
    """`InvalidRequest` unless this process judges by the rules of whoever asked."""
    if judged_by != rules(profile_digest):
        raise InvalidRequest("a worker runs another version of medgan or its libraries: install the same on all")


def remembered(found: Intake, pending: Collection[str], judged_by: str, *, zones: Zones) -> dict[str, str]:
    """Reasons of those pending that were refused at ingest by these rules, and not released by a reviewer.

    A face is judged by its whole study: where the study has something new, its refusals are tried again.
    """
    refused: dict[str, str] = {}
    records = quarantine.recorded(zones)
    released = review.releases(zones)
    for sha256 in set(pending) & records:
        record = quarantine.load(zones, sha256)
        if record is None or record.reason in released.get(sha256, frozenset()):
            continue
        if record.judged_by == judged_by and record.reason not in PASSING:
            refused[sha256] = record.reason.value
    new = set(pending) - refused.keys()
    for study in found.studies:
        instances = {locator.sha256 for locator in study.instances}
        if instances & new:
            for sha256 in instances & refused.keys():
                if refused[sha256] == QuarantineReason.FACE:
                    del refused[sha256]
    return refused


def _code() -> str:
    digest = hashlib.sha256(cluster.code(_PARTS).encode())
    for library in _LIBRARIES:
        try:
            digest.update(f"{library}={metadata.version(library)}".encode())
        except metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()


_CODE: Final = _code()
