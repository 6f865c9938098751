"""What dciodvfy (Debian's dicom3tools) says against an instance, in a form that two instances can be compared by."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from tests.unit.deid.builders import read, write

PROGRAM = "dciodvfy"


def errors(data: bytes, folder: Path) -> Counter[str]:
    """Error lines, without values and places."""
    path = folder / "one.dcm"
    path.write_bytes(data)
    said = subprocess.run([PROGRAM, path], capture_output=True, text=True, errors="replace", check=False)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
    return Counter(re.sub(r"value = <[^>]*>|[0-9.]{5,}|(?<=UID )0$", "", line) for line in lines)


def new_errors(before: bytes, after: bytes, folder: Path) -> Counter[str]:
    """Errors of `after` that `before` did not have."""
    return errors(after, folder) - errors(_readable(before), folder)


def _readable(data: bytes) -> bytes:
    """`data`, inflated where it is deflated: dciodvfy cannot read that, so it would find nothing wrong in it."""
    dataset = read(data)
    if dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return data
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return write(dataset)
