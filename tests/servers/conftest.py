"""What every test beside a real server shares. `make test-servers` runs this folder in one process, alone."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders import pacs
from tests.builders import servers as building


@pytest.fixture
def free_port() -> Callable[[], int]:
    """`free_port()`: a port of loopback that nobody listens on."""
    return building.free_port


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[building.Servers]:
    """Processes of one test: `servers.start(NAME, COMMAND, ready=...)`; ended by pid when the test is over."""
    with building.servers(tmp_path / "servers") as running:
        yield running


@pytest.fixture(scope="module")
def module_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[building.Servers]:
    """The same, shared by the tests of a module."""
    with building.servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """`tool("nginx")`: the program's path. Missing: the test is skipped, in CI it fails."""

    def find(name: str) -> str:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postgresql/15/bin")
        if found is None:
            missing = pytest.fail if os.environ.get("MEDGAN_REQUIRE_TOOLS") else pytest.skip
            missing(f"{name} is not on this machine")
        return str(found)

    return find


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """A network namespace of the module's own. Without root its tests are skipped, in CI they fail."""
    if os.geteuid() != 0:
        refuse = pytest.fail if os.environ.get("MEDGAN_REQUIRE_TOOLS") else pytest.skip
        refuse("a network namespace of one's own needs root")
    with pacs.own_network():
        yield
    with warnings.catch_warnings():  # sockets of refused connections that nobody collected yet
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
