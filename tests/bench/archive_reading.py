"""Reading an archive: scan, scan again, read + parse + decode, beside the same done with plain pydicom.

`python -m tests.bench.archive_reading [SMALL_INSTANCES]` (default 5,000 files of one small image).
CPU seconds of one process, medians of three; the scan beside a peer that does less: pydicom's header
read and SHA-256, without walking to the last byte, without sealing, without conflicts.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

from medgan.archive import instance, intake, phantom, pixels, scan, sources
from medgan.archive.quiet import quietly
from medgan.keys import Keyring
from medgan.settings import Zones
from tests.bench.__main__ import machine

_KEYRING = Keyring(secret=bytes(range(32)))
_REPEATS = 3


def _cpu(action: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median CPU seconds of `action`."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def _row(what: str, count: int, seconds: float, size: int, peer: float | None = None) -> None:
    beside = "" if peer is None else f"  {peer / seconds:5.2f} x pydicom's rate"
    rates = f"{count / seconds:9.0f}/s  {size / seconds / 2**20:8.0f} MiB/s"
    sys.stdout.write(f"{what:58s} {count:7d}  {seconds:8.2f} s {rates}{beside}\n")


def _tomographs(folder: Path) -> list[Path]:
    """200 CT instances of 512 x 512 in 16 bits with 150 private elements each."""
    extra = [(0x00290010, "LO", "BENCH")]
    extra += [(0x00291000 + number, "LO", f"value {number}") for number in range(150)]
    folder.mkdir()
    paths = []
    for patient in range(10):
        files = phantom.phantom_study(patient=patient, instances=20, rows=512, columns=512, extra=extra)
        for number, content in enumerate(files):
            paths.append(folder / f"{patient}-{number}.dcm")
            paths[-1].write_bytes(content)
    return paths


def _radiographs(folder: Path, count: int) -> list[Path]:
    """`count` small instances, one study each."""
    folder.mkdir()
    paths = []
    for number in range(count):
        if number % 1000 == 0:
            (folder / str(number // 1000)).mkdir()
        paths.append(folder / str(number // 1000) / f"{number}.dcm")
        paths[-1].write_bytes(phantom.phantom_study(patient=number, modality="DX", rows=28, columns=28)[0])
    return paths


def _peer_scan(paths: list[Path]) -> None:
    for path in paths:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        _ = (dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)


def _peer_read(paths: list[Path]) -> None:
    for path in paths:
        np.asarray(pydicom.dcmread(path).pixel_array)


def _measure(name: str, paths: list[Path], zones: Zones) -> None:
    size = sum(path.stat().st_size for path in paths)
    ref = sources.register(paths[0].parents[0 if name == "ct" else 1], zones=zones, keyring=_KEYRING)

    def first() -> None:
        for sealed in (zones.identified / "sources").glob("*.memory.sealed"):
            sealed.unlink()
        scan.scan(ref, zones=zones, keyring=_KEYRING)

    with quietly():
        peer = _cpu(lambda: _peer_scan(paths), 1)
    _row(f"{name}: scan", len(paths), _cpu(first, 1 if name != "ct" else _REPEATS), size, peer)
    _row(
        f"{name}: scan again, nothing changed",
        len(paths),
        _cpu(lambda: scan.scan(ref, zones=zones, keyring=_KEYRING)),
        size,
    )
    report = scan.scan(ref, zones=zones, keyring=_KEYRING)
    found = intake.load(report.scan_id, zones=zones, keyring=_KEYRING)
    locators = [locator for study in found.studies for locator in study.instances][:2000]
    some = paths[: len(locators)]
    bytes_read = sum(locator.size for locator in locators)

    def read() -> None:
        for locator in locators:
            pixels.decode(instance.parse(instance.read(locator, zones=zones, keyring=_KEYRING)))

    with quietly():
        peer = _cpu(lambda: _peer_read(some))
    _row(f"{name}: read, check, parse, decode", len(locators), _cpu(read), bytes_read, peer)


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    sys.stdout.write(f"machine: {machine()}\n")
    with tempfile.TemporaryDirectory(prefix="archive-bench-") as folder:
        root = Path(folder)
        zones = Zones.under(root / "workspace")
        _measure("ct", _tomographs(root / "ct"), zones)
        _measure("small", _radiographs(root / "small", count), zones)


if __name__ == "__main__":
    main()
