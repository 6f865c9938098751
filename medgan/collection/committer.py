"""Who may write to a collection: one process, on one machine by a lock file, on several by a PostgreSQL advisory lock.

`MEDGAN_LOCK_DSN` names the database (libpq form); nothing is written to it. The lock belongs to a database session: it
is gone when its holder dies, and a holder whose session was lost learns of it before it commits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from medgan.collection import durable, layout
from medgan.errors import Conflict, StoreUnavailable
from medgan.settings import Zones

DSN_VARIABLE: Final = "MEDGAN_LOCK_DSN"
_BUSY: Final = "another process is writing here: wait until it is done, then run again"

Check = Callable[[], None]


@contextmanager
def committer(collection: str, *, zones: Zones, wait: bool = False) -> Iterator[Check]:
    """Be the one committer of `collection`; yields a check that raises `Conflict` when that is over.

    Raises:
        Conflict: somebody else is, and `wait` is false.
        StoreUnavailable: the database of the lock does not answer.
    """
    with durable.locked(layout.lock(collection, zones=zones), wait=wait):
        dsn = os.environ.get(DSN_VARIABLE, "")
        if not dsn:
            yield _always
            return
        with _advisory(dsn, collection, wait=wait) as check:
            yield check


@contextmanager
def _advisory(dsn: str, collection: str, *, wait: bool) -> Iterator[Check]:
    """A session-level advisory lock: https://www.postgresql.org/docs/15/explicit-locking.html, 13.3.5."""
    import psycopg

    key = int.from_bytes(hashlib.sha256(f"medgan/collection/{collection}".encode()).digest()[:8], "big", signed=True)
    try:
        session: Any = psycopg.connect(
            dsn, autocommit=True, connect_timeout=10, keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
            application_name="medgan-committer",
        )  # fmt: skip
    except psycopg.Error:
        raise _silent() from None
    with session:
        try:
            if wait:
                session.execute("SELECT pg_advisory_lock(%s)", (key,))
            elif not session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()[0]:
                raise Conflict(_BUSY)
        except psycopg.Error:
            raise _silent() from None

        def check() -> None:
            try:
                session.execute("SELECT 1")
            except psycopg.Error:
                message = "the committer's lock was lost with its database session: nothing was committed, run again"
                raise Conflict(message) from None

        yield check


def _always() -> None:
    """A lock file is held until its process is gone."""


def _silent() -> StoreUnavailable:
    return StoreUnavailable(
        f"the database of the committer's lock does not answer: check {DSN_VARIABLE}, then run again"
    )
