"""DICOM's upper layer, kept within limits: what a peer may make this process hold, and for how long.

pynetdicom reads as many bytes as a PDU's header claims, up to 4 GiB, and waits for ever between two of them. Here a
PDU has a largest size and a deadline, and all messages in the making share one budget of memory.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
import warnings
from typing import Any, Final

from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity

from medgan.archive import limits

MAX_PDU_BYTES: Final = 256 * 1024
"""What we ask peers to keep to (PS3.8 D.1)."""
_LARGEST_PDU_BYTES: Final = limits.MIB  # an association request may be larger than a data PDU; nothing sane is larger
PDU_SECONDS: Final = 30.0
"""A PDU that has begun must be here by then."""
_READ_BYTES: Final = 1 << 16

# Its log lines quote titles, addresses and data sets.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
for _name in ("pynetdicom", "pydicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


def hush() -> None:
    """Keep pydicom, in any thread, from quoting in a warning what a peer answered and breaks its VR."""
    warnings.filterwarnings("ignore", module="pydicom")


hush()


class Budget:
    """Bytes of messages that are not whole yet, all associations of a process together."""

    def __init__(self, most_bytes: int = 2 * limits.GIB) -> None:
        """Allow `most_bytes` at a time, and the size of one instance to one association."""
        self._most, self._held, self._lock = most_bytes, 0, threading.Lock()
        self._of: dict[int, int] = {}

    def take(self, owner: int, count: int) -> None:
        """Enter bytes that `owner` is about to hold; `OSError` beyond the budget, which ends its association."""
        with self._lock:
            mine = self._of.get(owner, 0) + count
            if mine > limits.MAX_INSTANCE_BYTES or self._held + count > self._most:
                raise OSError
            self._of[owner], self._held = mine, self._held + count

    def give_back(self, owner: int) -> None:
        """Forget what `owner` held: its message is handled, or it is gone."""
        with self._lock:
            self._held -= self._of.pop(owner, 0)


class _Bounded:
    """Takes the place of `AssociationSocket.recv` of one association."""

    def __init__(self, wrapped: Any, owner: int, budget: Budget) -> None:
        self._wrapped, self._owner, self._budget = wrapped, owner, budget
        self._deadline = 0.0

    def __call__(self, count: int) -> bytearray:
        if count <= 6:  # noqa: PLR2004 - the header of a PDU begins here
            self._deadline = time.monotonic() + PDU_SECONDS
        if count > _LARGEST_PDU_BYTES:
            raise OSError
        self._budget.take(self._owner, count)
        received = bytearray()
        while len(received) < count:
            self._wait()
            chunk = self._wrapped.socket.recv(min(count - len(received), _READ_BYTES))
            if not chunk:
                break
            received += chunk
        return received

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        raw = self._wrapped.socket
        if isinstance(raw, ssl.SSLSocket) and raw.pending():
            return
        if left <= 0 or not select.select([raw], [], [], left)[0]:
            raise TimeoutError


def entity(title: str, *, seconds: float = 60.0) -> ApplicationEntity:
    """An application entity of ours, with timeouts (s) and the PDU size."""
    ours = ApplicationEntity(title)
    ours.maximum_pdu_size = MAX_PDU_BYTES
    ours.acse_timeout = ours.connection_timeout = 30.0
    ours.dimse_timeout = ours.network_timeout = seconds
    return ours


def guards(budget: Budget) -> list[Any]:
    """Event handlers that keep every association they are bound to within the limits."""

    def opened(event: evt.Event) -> None:
        wrapped = event.assoc.dul.socket
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[union-attr] # PS3.8 9.1.4
        wrapped.recv = _Bounded(wrapped, id(event.assoc), budget)  # type: ignore[union-attr,method-assign]

    def closed(event: evt.Event) -> None:
        budget.give_back(id(event.assoc))
        raw = getattr(event.assoc.dul.socket, "socket", None)
        if raw is not None:  # pynetdicom leaves a socket whose peer is gone to the garbage collector
            raw.close()

    return [(evt.EVT_CONN_OPEN, opened), (evt.EVT_CONN_CLOSE, closed)]
