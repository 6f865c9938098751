"""Every error medgan raises on purpose, drawn before it is raised.

    MedganError
    |- UnusableInput          the thing given cannot be worked on; nothing was written        (exit 2)
    |  |- UnusableArchive     missing, empty, broken, hostile, or holds no image
    |  |- UnusableKey         missing, empty, world-readable or malformed key
    |  '- InvalidRequest      a specification or configuration that cannot be met
    |- BadInstance            one file or instance is refused: quarantined, the run goes on
    |- ValidationFailed       an admission suite stopped the run                              (exit 4)
    |- TrainingDiverged       a loss became non-finite and roll-back did not help              (exit 5)
    |- PrivacyRefused         the gate refused or could not decide: nothing is published        (exit 6)
    |- IntegrityError         bytes are not what their digest or signature says                (exit 7)
    |- Conflict               another writer won; safe to retry                     retryable  (exit 8)
    '- StoreUnavailable       a disk, object store or server did not answer         retryable  (exit 9)

`kind` is stable and goes to logs and metrics; `retryable` decides whether a task tries again.
A message says what happened, with numbers in human units, and what to do next. It never holds a
value read from a header, a path inside an archive, or a name: messages end in Prefect's database.
"""

from __future__ import annotations

import os
from typing import ClassVar


class MedganError(Exception):
    """Base of the tree above."""

    kind: ClassVar[str] = "medgan"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1


class UnusableInput(MedganError):
    """The thing given cannot be worked on; nothing was written."""

    kind = "unusable-input"
    exit_status = 2


class UnusableArchive(UnusableInput):
    """An archive that is missing, empty, broken, hostile, or holds no image."""

    kind = "unusable-archive"


class UnusableKey(UnusableInput):
    """A key that is missing, empty, malformed, or readable by others."""

    kind = "unusable-key"


class InvalidRequest(UnusableInput):
    """A specification or configuration that cannot be met."""

    kind = "invalid-request"


class BadInstance(MedganError):
    """One instance is refused; `reason` is a member of `records.QuarantineReason`."""

    kind = "bad-instance"
    exit_status = 3

    def __init__(self, reason: str, message: str = "") -> None:
        """Refuse one instance for `reason`; `message` must hold no value of the instance."""
        super().__init__(message or reason)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadInstance], tuple[str, str]]:
        """Survive the trip between processes."""
        return (type(self), (self.reason, str(self)))


class ValidationFailed(MedganError):
    """An admission suite stopped the run."""

    kind = "validation-failed"
    exit_status = 4


class TrainingDiverged(MedganError):
    """A loss became non-finite and rolling back did not help."""

    kind = "training-diverged"
    exit_status = 5


class PrivacyRefused(MedganError):
    """The gate refused, or could not decide; nothing is published."""

    kind = "privacy-refused"
    exit_status = 6


class IntegrityError(MedganError):
    """Bytes are not what their digest or signature says."""

    kind = "integrity"
    exit_status = 7


class Conflict(MedganError):
    """Another writer won; trying again is safe."""

    kind = "conflict"
    retryable = True
    exit_status = 8


class StoreUnavailable(MedganError):
    """A disk, object store or server did not answer; trying again is safe."""

    kind = "store-unavailable"
    retryable = True
    exit_status = 9


def of_system(error: OSError) -> StoreUnavailable:
    """An `OSError` that nobody foresaw, as one of ours: its reason in the system's words, never its path."""
    reason = os.strerror(error.errno) if error.errno else "input/output error"
    return StoreUnavailable(
        f"a file or folder could not be read or written ({reason}): look at its path, its permissions and the free "
        "space, then run again"
    )


_BLANKS = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{SOFT HYPHEN}"


def printable(text: str) -> str:
    """Words of strangers (a publisher's title or reason) for a terminal: what would steer it is shown as a mark."""
    return "".join(one if one.isprintable() or one in _BLANKS else "\N{REPLACEMENT CHARACTER}" for one in text)
