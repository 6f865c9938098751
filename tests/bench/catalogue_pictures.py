"""Pictures of a published registry for the documentation, taken in a real Chromium.

    python -m tests.bench.catalogue_pictures REGISTRY NAME/VERSION FOLDER

Writes catalogue-index.png, catalogue-version.png, catalogue-zoom.png and catalogue-phone.png (dark).
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.builders.browser import Browser


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


def main(registry: str, version: str, folder: str) -> None:
    """Serve the registry on loopback and take four pictures of it."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with _Server(("127.0.0.1", 0), partial(_Quiet, directory=registry)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_address[1]}"
        with Browser(width=1180, height=860) as tab:
            tab.open(f"{site}/index.html")
            tab.picture(out / "catalogue-index.png")
            tab.open(f"{site}/{version}/index.html")
            tab.picture(out / "catalogue-version.png", full=True)
            tab.run("document.querySelectorAll('.tile')[9].click()")
            tab.until("document.querySelector('#source').textContent !== ''")
            tab.picture(out / "catalogue-zoom.png")
        with Browser(width=500, height=900, dark=True) as tab:
            tab.open(f"{site}/{version}/index.html")
            tab.picture(out / "catalogue-phone.png")
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
