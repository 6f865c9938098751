"""The child process that runs decoders: `python -m medgan.archive.decoder`, started by `guard`.

Decoders are C libraries fed with bytes from strangers. Here they may allocate 1.5 GiB and burn 20 s of
CPU a file; what goes wrong ends this process and not the one that holds the keys. Jobs come on
standard input, frames go to standard output; nothing is unpickled on either side.

A job: one line of JSON (`syntax`, the fields of `FrameSpec`, `lengths`), then the codestreams.
A reply: one line of JSON, `{"reason": ...}` or `{"dtype": ..., "count": ...}` and then the frames.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import IO, Any

import numpy as np

from medgan.archive import codecs, limits
from medgan.archive.codecs import FrameSpec
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason


def main() -> None:
    """Serve jobs until standard input ends."""
    jobs, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not speak in our protocol
    _limit_memory()
    while line := jobs.readline():
        _limit_cpu()
        _serve(json.loads(line), jobs, replies)


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    most = mapped + limits.DECODE_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu() -> None:
    """Twenty more seconds from now; then the kernel ends this process with SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + limits.DECODE_CPU_SECONDS, hard))


def _serve(job: dict[str, Any], jobs: IO[bytes], replies: IO[bytes]) -> None:
    codes = [jobs.read(length) for length in job["lengths"]]
    spec = FrameSpec(**job["spec"])
    try:
        frames = codecs.decode_frames(job["syntax"], codes, spec)
    except BadInstance as refused:
        replies.write(json.dumps({"reason": refused.reason}).encode() + b"\n")
    except MemoryError:
        replies.write(json.dumps({"reason": Reason.TOO_LARGE}).encode() + b"\n")
    else:
        replies.write(json.dumps({"dtype": frames.dtype.str, "count": len(frames)}).encode() + b"\n")
        replies.write(np.ascontiguousarray(frames).data)
    replies.flush()


if __name__ == "__main__":
    main()
