"""Orthanc as Debian ships it: a real PACS, in a network namespace of its own because it binds every address.

`own_network()` moves the calling thread (and every process and thread it starts) into a fresh namespace with
loopback up; sockets of the test and of Orthanc meet there and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.builders import servers
from tests.builders.certificates import Authority

_CLONE_NEWNET = 0x40000000
AET, DICOM_PORT, HTTP_PORT, MOVE_PORT = "ORTHANC", 4242, 8042, 11112
_PLUGINS = Path("/usr/share/orthanc/plugins")


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Root only; `PermissionError` otherwise."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise PermissionError(ctypes.get_errno(), "a network namespace of one's own needs root")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            libc.setns(before, _CLONE_NEWNET)
    finally:
        os.close(before)


class Orthanc:
    """One Orthanc on 127.0.0.1 that may be killed and started again with the same storage.

    With an authority it speaks DICOM by mutual TLS only, and pushes to us so.
    """

    def __init__(self, folder: Path, running: servers.Servers, binary: str, authority: Authority | None = None) -> None:
        self._running, self._binary = running, binary
        folder.mkdir(parents=True, exist_ok=True)
        self._configuration = folder / "orthanc.json"
        tls = _tls(authority) if authority is not None else {}
        self._configuration.write_text(
            json.dumps(
                {
                    "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
                    "Plugins": [str(_PLUGINS / "libOrthancDicomWeb.so")],
                    "DicomAet": AET, "DicomPort": DICOM_PORT, "HttpPort": HTTP_PORT, "HttpDescribeErrors": True,
                    "RemoteAccessAllowed": True, "AuthenticationEnabled": False, "DicomCheckCalledAet": True,
                    "DicomModalities": {
                        "medgan": {"AET": "MEDGAN", "Host": "127.0.0.1", "Port": MOVE_PORT, "UseDicomTls": bool(tls)}
                    },
                    "ConcurrentJobs": 8, "HttpThreadsCount": 16, "DicomWeb": {"Enable": True}, **tls,
                }
            )
        )  # fmt: skip

    def start(self) -> None:
        command = [self._binary, self._configuration]
        self._running.start("orthanc", command, ready=lambda: self.ask("/system"))

    def kill(self) -> None:
        self._running.kill("orthanc")

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """GET, or POST with a body, of its REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{HTTP_PORT}{path}", data=body)
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - of loopback
            return json.loads(answer.read() or b"null")

    def hold(self, files: Iterable[bytes]) -> None:
        """Store instances in it."""
        for content in files:
            self.ask("/instances", content)


def _tls(authority: Authority) -> dict[str, Any]:
    certificate, key = authority.issue("orthanc")
    return {
        "DicomTlsEnabled": True, "DicomTlsRemoteCertificateRequired": True, "DicomTlsCertificate": str(certificate),
        "DicomTlsPrivateKey": str(key), "DicomTlsTrustedCertificates": str(authority.ca),
    }  # fmt: skip


def address(query: str = "") -> str:
    """Of the running Orthanc, for DIMSE."""
    return f"dicom://{AET}@127.0.0.1:{DICOM_PORT}?calling=MEDGAN&bind=127.0.0.1&port={MOVE_PORT}{query}"


def web_address(query: str = "") -> str:
    """Of the running Orthanc, for DICOMweb."""
    return f"dicomweb+http://127.0.0.1:{HTTP_PORT}/dicom-web?associations=4{query}"
