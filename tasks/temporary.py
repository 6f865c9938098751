"""A Prefect server for one command, where none is named: it ends with that command, however that ends.

Prefect's own temporary server outlives a command that is killed -9 and goes on writing into the workspace
(docs/adr/0081). This one is our child and looks once a second whether its parent is still there.

Nothing of Prefect is imported at the top: its settings are read from the environment when it is.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

from medgan.errors import StoreUnavailable

_START_SECONDS = 180
"""Longest start: a loaded machine takes 40 s, the first one also makes the database."""
_STOP_SECONDS = 10


def configure(workspace: Path) -> None:
    """Point Prefect at the workspace, unless the environment says otherwise. Before Prefect is imported."""
    root = workspace.expanduser().resolve()
    os.environ["MEDGAN_WORKSPACE"] = str(root)
    os.environ.setdefault("PREFECT_HOME", str(root / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def start() -> None:
    """Unless PREFECT_API_URL names a server, start one on a free port of loopback and set PREFECT_API_URL to it.

    Its password is one of its own, because everybody on this machine reaches loopback. After `configure`, before
    Prefect is imported.

    Raises:
        StoreUnavailable: it did not come up.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True, mode=0o700)
    password = f"medgan:{secrets.token_hex(16)}"
    os.environ |= {"PREFECT_SERVER_API_AUTH_STRING": password, "PREFECT_API_AUTH_STRING": password}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", __name__, str(os.getpid()), str(listening.fileno())]
        # A session of its own: Ctrl-C ends the flow, whose last words the server still has to hear.
        server = subprocess.Popen(command, pass_fds=[listening.fileno()], start_new_session=True)  # noqa: S603 - ours
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    atexit.register(stop, server)
    os.environ |= {"PREFECT_API_URL": address, "PREFECT_UI_URL": ""}  # it shows no pages
    ask_loopback_directly()
    import prefect  # noqa: F401 - takes seconds, in which the server starts

    try:  # it listens already, and answers once it is up
        with urlopen(f"{address}/health", timeout=_START_SECONDS):  # noqa: S310 - loopback
            pass
    except OSError as error:
        message = f"the temporary Prefect server did not start ({type(error).__name__}): is the workspace writable?"
        raise StoreUnavailable(message) from None


def ask_loopback_directly() -> None:
    """Except 127.0.0.1 from the proxy that a hospital's environment names: to that proxy it is another machine."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # in this order, as urllib and httpx do
    if spared.strip() != "*":
        spared = ",".join(filter(None, (spared, "127.0.0.1")))
    os.environ |= {"no_proxy": spared, "NO_PROXY": spared}


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server: as on SIGTERM, and ten seconds later by SIGKILL."""
    server.terminate()
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> None:
    """`python -m tasks.temporary PARENT SOCKET`: serve on an inherited socket for as long as the parent lives."""
    parent, listening = map(int, sys.argv[1:])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=_STOP_SECONDS // 2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listening)])


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)  # a server that still starts hears of it only then: its database may be another's
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
