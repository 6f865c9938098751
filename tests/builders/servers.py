"""Real servers on loopback: a free port, a process group started and ended by its pid, a wait for readiness."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

T = TypeVar("T")

PATIENCE_SECONDS = 600.0
"""Longest wait for anything that must happen: a loaded machine is slow, and a test that hurries it is wrong."""


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Whether something accepts connections on this port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def wait_until(what: str, probe: Callable[[], T], *, seconds: float = PATIENCE_SECONDS, pause: float = 0.25) -> T:
    """The first truthy answer of `probe`; an `OSError` (nobody listens yet) is no answer."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := probe():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


class Servers:
    """Processes of one test, each the head of its own group, all ended when the block ends, newest first."""

    def __init__(self, folder: Path) -> None:
        """Logs go to `folder/NAME.log`."""
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start with none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End them all, and show the end of each log where the block failed."""
        for name in reversed(list(self.running)):
            self.stop(name)
        if error is not None and hasattr(error, "add_note"):
            for path in sorted(self.folder.glob("*.log")):
                error.add_note(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}")

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], Any] | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start `command` as `name` and wait until `ready()` is truthy; a process that ends meanwhile is an error."""
        if name in self.running:
            raise ValueError(f"{name} runs already")
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*map(str, command)], env=env, stdout=log, stderr=log, start_new_session=True, **options
            )
        self.running[name] = process

        def answers() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with status {process.returncode}:\n{self.log(name)[-3000:]}")
            return ready is None or bool(ready())

        wait_until(f"{name} ready", answers)
        return process

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process and everything it started: by `how`, and by SIGKILL after 30 s."""
        process = self.running.pop(name)
        # By their ids, because a child may have left the group: Prefect's worker gives each run one of its own.
        family = _family(process.pid)
        _signal(process, how)
        if how != signal.SIGKILL:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        _signal(process, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()

    def kill(self, name: str) -> None:
        """Kill -9, children and all: what a power cut is."""
        self.stop(name, signal.SIGKILL)

    def log(self, name: str) -> str:
        """What the process has written so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """`with servers(tmp_path / "servers") as running:` for fixtures of any scope."""
    with Servers(folder) as running:
        yield running


def _family(pid: int) -> list[psutil.Process]:
    """Everything that a process has started, however far down."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, how)
