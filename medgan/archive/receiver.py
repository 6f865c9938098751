"""A C-STORE receiver: known senders only, everything bounded, and "success" only for what is durable.

Whatever a known sender delivers is kept as it came; whether it is any good is the scan's question. Titles are no
proof of identity (DICOM has none without TLS), so the network must say who may connect: docs/ingest.md.
"""

from __future__ import annotations

import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from medgan.archive import wire
from medgan.archive.landing import Landing
from medgan.archive.place import Place
from medgan.errors import InvalidRequest, MedganError, StoreUnavailable

_SUCCESS: Final = 0x0000
_OUT_OF_RESOURCES: Final = 0xA700  # PS3.4 Table B.2-1
_CANNOT_UNDERSTAND: Final = 0xC000
MOST_ASSOCIATIONS: Final = 64
_MOST_OF_ONE_ADDRESS: Final = 16
"""So that a flood from one machine leaves room for the others."""
_HANDSHAKE_SECONDS: Final = 10.0


class _Server(ThreadedAssociationServer):
    """Refuses a crowd before a thread works for it, and shakes TLS hands outside of the accepting thread."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None
    request_queue_size = 128

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base class calls it so
        """Whether this connection may have an association."""
        open_now = [assoc.requestor.address for assoc in self.active_associations]
        address = str(client_address[0])
        return len(open_now) < MOST_ASSOCIATIONS and Counter(open_now)[address] < _MOST_OF_ONE_ADDRESS

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own: TLS first, where it is asked for."""
        if self.tls is not None:
            request.settimeout(_HANDSHAKE_SECONDS)
            request = self.tls.wrap_socket(request, server_side=True)
            request.settimeout(None)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed is closed; its traceback would name the peer."""


class Receiver:
    """A running receiver; `port` is where it listens. Use as a context manager."""

    def __init__(
        self,
        landing: Landing,
        *,
        title: str,
        host: str,
        port: int,
        senders: Sequence[str],
        tls: ssl.SSLContext | None = None,
        on_arrival: Callable[[], None] | None = None,
    ) -> None:
        """Listen at once. `senders` are the AE titles that are served; there must be one.

        Raises:
            StoreUnavailable: the port is taken, or not ours to take.
        """
        if not senders:
            raise InvalidRequest("a receiver names its senders: from=TITLE,TITLE in its address")
        self._landing, self._budget, self._on_arrival = landing, wire.Budget(), on_arrival
        ours = wire.entity(title)
        ours.require_calling_aet = list(senders)
        ours.require_called_aet = True
        ours.maximum_associations = MOST_ASSOCIATIONS
        contexts = [
            build_context(context.abstract_syntax, AllTransferSyntaxes)  # type: ignore[arg-type]
            for context in AllStoragePresentationContexts
        ]
        handlers = [*wire.guards(self._budget), (evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, _echo)]
        try:
            server = ours.make_server(
                (host, port),
                contexts=[*contexts, build_context(Verification)],
                evt_handlers=handlers,
                server_class=_Server,
            )
        except OSError:
            raise StoreUnavailable("the receiver cannot listen there: the port is taken or needs privileges") from None
        if not isinstance(server, _Server):  # the stubs know the base class only
            raise TypeError
        server.tls, self._server = tls, server
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Listening already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take no new connection, end those that are open, and wait for the accepting thread."""
        for association in self._server.active_associations:
            association.abort()
        with suppress(OSError, ValueError):
            self._server.shutdown()
        self._thread.join(timeout=10)

    def _store(self, event: evt.Event) -> int:
        status = land(event, self._landing)
        self._budget.give_back(id(event.assoc))
        if status == _SUCCESS and self._on_arrival is not None:
            self._on_arrival()
        return status


def land(event: evt.Event, landing: Landing) -> int:
    """Make the instance of a C-STORE request durable; its DIMSE status."""
    try:
        uid = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        landing.add(landing.handle(uid), [event.encoded_dataset()])
    except MedganError:
        return _OUT_OF_RESOURCES
    except (AttributeError, ValueError, TypeError):
        return _CANNOT_UNDERSTAND
    return _SUCCESS


def serve(place: Place, landing: Landing, *, on_arrival: Callable[[], None] | None = None) -> Receiver:
    """The receiver that an address asks for (`receive://TITLE@host:port?from=...&cert=...&key=...&ca=...`)."""
    senders = [one.strip() for one in place.options.get("from", "").split(",") if one.strip()]
    return Receiver(
        landing, title=place.title, host=place.host, port=place.port, senders=senders,
        tls=tls_of(place) if "cert" in place.options else None, on_arrival=on_arrival,
    )  # fmt: skip


def tls_of(place: Place) -> ssl.SSLContext:
    """TLS (PS3.15 B.12) with the certificate that the address names; mutual where it names a `ca` file."""
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=place.options.get("ca"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "ca" in place.options:
            context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(place.options["cert"], place.options.get("key"))
    except OSError:
        raise InvalidRequest("the ca, certificate or key of the receiver cannot be read") from None
    return context


def _echo(_event: evt.Event) -> int:
    return _SUCCESS
