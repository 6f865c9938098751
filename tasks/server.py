"""Prefect's server, watched: started again when it ends, or takes events and acts on none (docs/adr/0082)."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

from tasks.events import Server
from tasks.temporary import ask_loopback_directly, stop

_REST_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1  # prctl(2)
_MISSES = 2
"""Pulses in a row that nothing was done about: one may fall into a restart of the database."""


def serve(*, host: str, port: int, pulse_seconds: float) -> NoReturn:
    """Run `prefect server start` for ever; its database may come later, and go and come again.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        pulse_seconds: Time between two pulses, and how long one is waited for. A deaf server has ended after three.
    """
    log = logging.getLogger("medgan.server")
    password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
    api = Server(address=f"http://{_near(host)}:{port}/api", password=password)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    ask_loopback_directly()
    for asked in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, lambda *_: sys.exit(0))
    while True:
        server = subprocess.Popen(command, preexec_fn=_end_with_parent)  # noqa: S603, PLW1509 - ours, and one thread
        try:
            why = _until_ill(server, api, pulse_seconds)
        finally:
            stop(server)
        log.warning("the Prefect server %s: it is started again", why)
        time.sleep(_REST_SECONDS)


def _end_with_parent() -> None:
    """In the child: be told to end when this process is killed, or it would keep the port from the next one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _near(host: str) -> str:
    """The address under which this machine reaches what listens on `host`."""
    if host in {"", "0.0.0.0"}:  # noqa: S104 - everywhere
        return "127.0.0.1"
    return "[::1]" if host == "::" else f"[{host}]" if ":" in host else host


def _until_ill(server: subprocess.Popen[bytes], api: Server, pulse_seconds: float) -> str:
    """Why it has to be started again, once it has to."""
    misses = 0
    while misses < _MISSES:
        try:
            return f"ended with status {server.wait(0 if misses else pulse_seconds)}"
        except subprocess.TimeoutExpired:
            misses = misses + 1 if api.is_deaf(patience_seconds=pulse_seconds) else 0
    return "takes events and acts on none"
