"""End to end ingest: read, de-identify, verify, decode, write, commit; beside the usual libraries; flat memory.

    python -m tests.bench.ingest_rate [--instances 1000] [--scale 0] [--samples DIR] [--workers 2] [--folder DIR]

Workers are started before the clock. Rates are by wall time and by CPU time (every core of this process and of the
workers, divided by their number): on a busy machine the latter is the one to trust.

Rows: 512 x 512 CT phantoms, real radiographs of 28 x 28, and every folder below DIR/dicom where given. Each is
scanned, ingested into a fresh collection, and scanned and ingested again. The peers read each instance with pydicom,
decode it and write one Zarr array an image in one process, the second one after dicom-anonymizer: no checks, no
verification, no transaction. `--scale N` ingests N tiny CT instances of N/20 patients and prints the peak memory of
this process and of its largest worker. `--folder DIR` keeps archives and workspaces: a second run with it finds every
instance known, and what it prints as "again" is the re-run on another day.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pydicom
import zarr
from dicomanonymizer import anonymize_dataset

from medgan import cluster, keys
from medgan.archive import phantom, scan, sources
from medgan.collection import ingest, stage
from medgan.records import IngestReport
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.cohort import SAMPLES

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Seconds of each step, instances, bytes and peak memory (MiB)."""

    name: str
    instances: int
    source_bytes: int
    scan_seconds: float
    ingest_seconds: float
    cpu_seconds: float
    again_seconds: float
    parent_mib: float
    worker_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--scale", type=int, default=0)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    say(f"machine: {machine()}, load {psutil.getloadavg()[0]:.1f}, {options.workers} workers")
    with (
        tempfile.TemporaryDirectory(prefix="ingest-rate-") as temporary,
        cluster.open_client(workers=options.workers) as client,
    ):
        crew, scratch = Crew(client), options.folder or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for name, archive in archives(scratch, options):
            result = measure(name, archive, scratch / f"workspace-{name}", crew)
            show(result, options.workers)
            if not options.scale:
                ours = result.instances / result.cpu_seconds
                for what, work in (("", lambda _: None), (" + dicom-anonymizer", anonymize_dataset)):
                    rate = peer(archive, Path(temporary) / f"peer-{name}{len(what)}", work)
                    say(f"{'':28}pydicom{what} + zarr: {rate:.0f} instances a CPU-second, ours {ours / rate:.2f} x")


def archives(scratch: Path, options: argparse.Namespace) -> Iterable[tuple[str, Path]]:
    if options.scale:
        yield f"tiny-{options.scale}", ct_zip(scratch / "tiny.zip", options.scale, 20, 16)
        return
    yield "ct-512", ct_zip(scratch / "ct.zip", options.instances, 100, 512)
    planted = phantom.build_demo_archive(
        scratch / "dx", radiographs=SAMPLES, patients=options.instances, vendor_files=False
    )
    yield "dx-28", planted.archive
    if options.samples is not None:
        for folder in sorted((options.samples / "dicom").iterdir()):
            yield folder.name, folder


def ct_zip(path: Path, count: int, per_study: int, size: int) -> Path:
    """`count` CT instances in studies of `per_study`, stored without compression as archives do."""
    if path.exists():
        return path
    partial = path.with_suffix(".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as target:
        for patient in range(-(-count // per_study)):
            wanted = min(per_study, count - patient * per_study)
            study = phantom.phantom_study(patient=patient, instances=wanted, rows=size, columns=size)
            for number, data in enumerate(study):
                target.writestr(f"{patient}/{number}.dcm", data)
    return partial.replace(path)


class Crew:
    """The workers of a cluster: where it is, what they have used."""

    def __init__(self, client: Any) -> None:
        self.address: str = client.scheduler.address
        client.run(importlib.import_module, stage.__name__)  # imports are no work of the ingest
        self._processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        self.peak_mib = 0.0

    def cpu_seconds(self) -> float:
        """CPU seconds of the workers and of this process so far."""
        used = [process.cpu_times() for process in (psutil.Process(), *self._processes)]
        return sum(times.user + times.system for times in used)

    def look(self, _done: int = 0, _total: int = 0) -> None:
        """Remember the largest resident set of a worker."""
        self.peak_mib = max([self.peak_mib, *(process.memory_info().rss / MIB for process in self._processes)])


def measure(name: str, archive: Path, workspace: Path, crew: Crew) -> Result:
    zones = Zones.under(workspace)
    if not (zones.keys / "pseudonym.key").exists():
        keys.create(zones.keys / "pseudonym.key")
    keyring = keys.load(zones.pseudonym_key)
    ref = sources.register(archive, zones=zones, keyring=keyring)
    where = {"zones": zones, "key_handle": zones.pseudonym_key, "collection": "main", "scheduler": crew.address}
    started = time.monotonic()
    found = scan.scan(ref, zones=zones, keyring=keyring)
    scanned, cpu = time.monotonic(), crew.cpu_seconds()
    report = ingest.ingest(found, on_progress=crew.look, **where)
    done, cpu = time.monotonic(), crew.cpu_seconds() - cpu
    again = ingest.ingest(scan.scan(ref, zones=zones, keyring=keyring), **where)
    finished = time.monotonic()
    check(report, again)
    return Result(
        name=name, instances=report.received, source_bytes=found.bytes, scan_seconds=scanned - started,
        ingest_seconds=done - scanned, cpu_seconds=cpu, again_seconds=finished - done,
        parent_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, worker_mib=crew.peak_mib,
    )  # fmt: skip


def check(report: IngestReport, again: IngestReport) -> None:
    if again.snapshot != report.snapshot or report.pending:
        message = "the second ingest changed something"
        raise RuntimeError(message)


def peer(archive: Path, target: Path, deidentify: Callable[[pydicom.Dataset], object]) -> float:
    """Instances a CPU-second of pydicom, `deidentify` and zarr, one array an image, without any of the rest."""
    group = zarr.create_group(target, zarr_format=3)
    written = 0
    started = time.process_time()
    for number, data in enumerate(islice(contents(archive), 200)):
        dataset = pydicom.dcmread(io.BytesIO(data))
        deidentify(dataset)
        group.create_array(str(number), data=dataset.pixel_array)
        written += 1
    return written / (time.process_time() - started)


def contents(archive: Path) -> Iterable[bytes]:
    if archive.is_dir():
        files = (path.read_bytes() for path in sorted(archive.rglob("*")) if path.is_file())
        yield from (data for data in files if data[128:132] == b"DICM")
        return
    with zipfile.ZipFile(archive) as opened:
        yield from (opened.read(name) for name in opened.namelist() if not name.endswith(".csv"))


def show(result: Result, workers: int) -> None:
    by_cpu = result.instances / (result.cpu_seconds / workers)
    mib = result.source_bytes / MIB / (result.cpu_seconds / workers)
    rates = (result.instances / result.ingest_seconds, by_cpu, mib)
    say(
        f"{result.name:<28}{result.instances:>7,} instances  scan {result.instances / result.scan_seconds:>6.0f}/s  "
        "ingest by wall {:>5.0f}/s, by CPU {:>5.0f}/s = {:>6.1f} MiB/s  ".format(*rates)
        + f"again {result.again_seconds:>5.1f} s  "
        f"peak {result.parent_mib:>4.0f} MiB, worker {result.worker_mib:>4.0f} MiB"
    )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
