"""Decode compressed frames in a child process that may die, run long or ask for too much.

One child a process, started at first use and again after each death; a frame costs a copy through a
pipe. What the child says is not trusted either: its dtype, count and size must be those of the header.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from medgan.archive import limits
from medgan.archive.codecs import FrameSpec
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES: Final = frozenset({"|u1", "|i1", "<u2", "<i2", "<u4", "<i4"})
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_WALL_SECONDS: Final = 3 * limits.DECODE_CPU_SECONDS  # a busy machine gives less CPU than time
_LONGEST_LINE: Final = 4096


class _Child:
    """The decoder process of this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def decode(self, syntax: str, codes: Sequence[bytes], spec: FrameSpec) -> NDArray[Any]:
        with self._lock:
            process = self._running()
            deadline = time.monotonic() + _WALL_SECONDS
            try:
                _send(process, syntax, codes, spec)
                return _receive(process, len(codes), spec, deadline)
            except (BrokenPipeError, EOFError):
                raise BadInstance(self._cause(process)) from None
            except TimeoutError:
                self._end(process)
                raise BadInstance(Reason.TIMEOUT) from None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner != os.getpid():
            self._process = None  # a forked copy: the child is the parent's
        if self._process is not None and self._process.poll() is not None:
            self._end(self._process)
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "medgan.archive.decoder"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **_ONE_THREAD},
                )
            except OSError:  # no process or memory left: the machine is busy, the file may be sound
                raise BadInstance(Reason.TIMEOUT) from None
            self._owner = os.getpid()
        return self._process

    def _cause(self, process: subprocess.Popen[bytes]) -> Reason:
        """Why the child died: the kernel's CPU limit, or a decoder that fell over the bytes."""
        import signal

        self._end(process)
        return Reason.TIMEOUT if process.returncode == -signal.SIGXCPU else Reason.CORRUPT_PIXELS

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None

    def close(self) -> None:
        """End the child, if this process started one."""
        process = self._process
        if process is not None and self._owner == os.getpid():
            self._end_quietly(process)

    def _end_quietly(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        self._end(process)


_CHILD: Final = _Child()
atexit.register(_CHILD.close)


def decode_frames(syntax: str, codes: Sequence[bytes], spec: FrameSpec) -> NDArray[Any]:
    """Frames (F, H, W[, samples]) of one instance, decoded in the child.

    Raises `BadInstance` with what the decoder found, TIMEOUT after 20 s of CPU or where no child can be started,
    TOO_LARGE beyond 1.5 GiB, CORRUPT_PIXELS where the decoder died.
    """
    return _CHILD.decode(syntax, codes, spec)


def _send(process: subprocess.Popen[bytes], syntax: str, codes: Sequence[bytes], spec: FrameSpec) -> None:
    job = {"syntax": syntax, "spec": dataclasses.asdict(spec), "lengths": [len(code) for code in codes]}
    assert process.stdin is not None  # noqa: S101 - opened above
    process.stdin.write(json.dumps(job).encode() + b"\n")
    for code in codes:
        process.stdin.write(code)
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes], count: int, spec: FrameSpec, deadline: float) -> NDArray[Any]:
    assert process.stdout is not None  # noqa: S101 - opened above
    stream = process.stdout.fileno()
    line = bytearray()
    while not line.endswith(b"\n"):
        if len(line) > _LONGEST_LINE:
            raise EOFError
        line += _read(stream, 1, deadline)
    reply = json.loads(line)
    if "reason" in reply:
        raise BadInstance(Reason(reply["reason"]))
    if reply["dtype"] not in _DTYPES or reply["count"] != count:
        raise BadInstance(Reason.CORRUPT_PIXELS)
    frames = np.empty((count, *spec.shape), reply["dtype"])
    view = frames.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view):
        chunk = _read(stream, min(len(view) - filled, 1 << 20), deadline)
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return frames


def _read(stream: int, size: int, deadline: float) -> bytes:
    ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        raise TimeoutError
    data = os.read(stream, size)
    if not data:
        raise EOFError
    return data
