"""A decoder that dies, spins or hoards costs one file and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import imagecodecs
import numpy as np
import pytest

from medgan.archive import codecs, guard, limits
from medgan.archive.codecs import FrameSpec
from medgan.errors import BadInstance

SPEC = FrameSpec(rows=8, columns=8, samples=1, bits_allocated=16, bits_stored=16, photometric="MONOCHROME2")
IMAGE = np.arange(64, dtype=np.uint16).reshape(8, 8)


@pytest.fixture
def code() -> bytes:
    return bytes(imagecodecs.jpegls_encode(IMAGE))


def _child(body: str, monkeypatch: pytest.MonkeyPatch) -> guard._Child:
    """A guard whose child runs `body` in place of a decoder."""
    program = "import medgan.archive.codecs as codecs\n" + textwrap.dedent(body)
    program += "\nfrom medgan.archive import decoder, limits\ncodecs.decode_frames = decode\n"
    program += "limits.DECODE_CPU_SECONDS = 1\ndecoder.main()\n"
    child = guard._Child()
    start = subprocess.Popen

    def instead(command, **options):  # type: ignore[no-untyped-def]
        return start([sys.executable, "-c", program], **options)

    monkeypatch.setattr(guard.subprocess, "Popen", instead)
    return child


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def decode(*_):\n while True: pass", "TIMEOUT"),
        ("import os, signal\ndef decode(*_):\n os.kill(os.getpid(), signal.SIGSEGV)", "CORRUPT_PIXELS"),
        ("import numpy\ndef decode(*_):\n return numpy.ones(3 << 30, 'u1')", "TOO_LARGE"),
        ("import numpy\ndef decode(*_):\n return numpy.ones((2, 8, 8), 'u2')", "CORRUPT_PIXELS"),
        ("import numpy\ndef decode(*_):\n return numpy.ones((1, 8, 8), 'f8')", "CORRUPT_PIXELS"),
    ],
)
def test_a_misbehaving_decoder_is_one_refused_file(
    body: str, reason: str, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = _child(body, monkeypatch)
    try:
        with pytest.raises(BadInstance) as refused:
            child.decode(codecs.JPEG_LS[0], [code], SPEC)
        assert refused.value.reason == reason
    finally:
        child.close()


def test_after_a_death_the_next_file_is_decoded(code: bytes) -> None:
    child = guard._Child()
    try:
        np.testing.assert_array_equal(child.decode(codecs.JPEG_LS[0], [code], SPEC)[0], IMAGE)
        first = child._running().pid
        os.kill(first, signal.SIGKILL)
        child._running().wait()
        np.testing.assert_array_equal(child.decode(codecs.JPEG_LS[0], [code, code], SPEC)[1], IMAGE)
        assert child._running().pid != first
    finally:
        child.close()


def test_one_child_serves_many_files(code: bytes) -> None:
    guard.decode_frames(codecs.JPEG_LS[0], [code], SPEC)
    process = guard._CHILD._running().pid
    for _ in range(3):
        with pytest.raises(BadInstance, match="CORRUPT_PIXELS"):
            guard.decode_frames(codecs.JPEG_LS[0], [code[:-9]], SPEC)
        guard.decode_frames(codecs.JPEG_LS[0], [code], SPEC)
    assert guard._CHILD._running().pid == process


def test_the_caps_are_those_of_the_project() -> None:
    assert (limits.DECODE_CPU_SECONDS, limits.DECODE_MEMORY_BYTES) == (20, 1536 << 20)
