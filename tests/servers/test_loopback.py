"""The doors to real servers keep their own promises."""

from __future__ import annotations

import sys

import pytest

from tests.builders.servers import listening, wait_until

SERVER = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], start_new_session=True)"


def test_a_server_and_the_children_it_started_are_gone_after_it_is_stopped(servers, free_port):
    port = free_port()
    assert not listening(port)
    command = [sys.executable, "-c", PARENT, "-c", SERVER, str(port)]
    servers.start("web", command, ready=lambda: listening(port))
    servers.kill("web")
    wait_until("the port free again", lambda: not listening(port))
    servers.start("web", command, ready=lambda: listening(port))


def test_a_server_that_ends_at_once_says_why(servers):
    with pytest.raises(AssertionError, match="no such option"):
        servers.start("broken", [sys.executable, "-c", "raise SystemExit('no such option')"], ready=lambda: False)
