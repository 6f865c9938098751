"""Web servers on loopback: one over a folder, as nginx and S3 answer, that lies on demand; one that takes messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Harm = Callable[["Handler", bytes], None]
"""What to do instead of answering: gets the handler and the bytes that would be sent."""


class Handler(SimpleHTTPRequestHandler):
    """`server.harm` maps the end of a path to what happens there; `server.seen` are (path, range) in order."""

    server: Server

    def do_GET(self) -> None:
        """A file, or a part of it from `bytes=N-` on."""
        asked = self.headers.get("Range")
        self.server.seen.append((self.path, asked))
        harm = next((harm for end, harm in self.server.harm.items() if self.path.endswith(end)), None)
        place = Path(self.translate_path(self.path))
        if (asked is None and harm is None) or not place.is_file():
            super().do_GET()
            return
        body = place.read_bytes()[int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 :]
        if harm is not None:
            harm(self, body)
            return
        self.answer(206, body)

    def answer(self, status: int, body: bytes, *, length: int | None = None) -> None:
        """Status, length (said, perhaps not true) and body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """See `Handler`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        """Serve `folder` on a free port of loopback."""
        self.seen: list[tuple[str, str | None]] = []
        self.harm: dict[str, Harm] = {}
        super().__init__(("127.0.0.1", 0), lambda *about: Handler(*about, directory=str(folder)))

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that hung up is no news."""


class Receiver(ThreadingHTTPServer):
    """Takes whatever is posted; `received` are the bodies, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port of loopback."""
        self.received: list[str] = []
        super().__init__(("127.0.0.1", 0), _Taking)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for the block."""
    with Server(folder) as server, _running(server):
        yield server


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver for the block."""
    with Receiver() as receiver, _running(receiver):
        yield receiver


@contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
