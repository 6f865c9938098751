"""A real Orthanc as the archive: instances a second by C-STORE, C-MOVE, C-GET and WADO-RS, four side by side.

    python -m tests.bench.archive_pacs [FOLDER] [COUNT]     default: phantom CT, 400; root only

FOLDER holds real DICOM files; the first COUNT of them are put into Orthanc. Every way must bring each instance once.
Wall time, Orthanc on the same cores; then how many instances a CPU-second of this process and of Orthanc: the smaller
one is the bound. Orthanc is killed in the middle of a
C-GET and of a push, started again, and asked for the rest: what is lost or doubled is counted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pydicom

from medgan.archive import fetch, phantom, place, receiver, sources
from medgan.archive.landing import Landing
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.keys import Keyring
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders import pacs, servers

_KEYRING = Keyring(secret=bytes(range(32)))
_SIDE_BY_SIDE = 4


def main(folder: Path | None, count: int) -> None:
    say(f"machine: {machine()}, load {os.getloadavg()[0]:.1f}")
    os.environ[place.HOSTS_VARIABLE] = "127.0.0.1"
    files = list(instances(folder, count))
    uids = Counter(uid for uid, _ in files)
    size = sum(len(content) for _, content in files)
    with tempfile.TemporaryDirectory(prefix="pacs-bench-") as scratch, pacs.own_network():
        root = Path(scratch)
        with servers.servers(root / "logs") as running:
            orthanc = pacs.Orthanc(root / "orthanc", running, shutil.which("Orthanc", path="/usr/sbin") or "Orthanc")
            orthanc.start()
            orthanc.hold(content for _, content in files)
            say(f"{len(uids)} instances, {size / 2**20:.0f} MiB, {_SIDE_BY_SIDE} side by side")
            peer = psutil.Process(running.running["orthanc"].pid)
            measure("C-STORE from Orthanc", uids, root / "store", lambda zones: pushed(orthanc, zones), peer)
            for name, address in ways().items():
                measure(name, uids, root / name, lambda zones, address=address: fetched(address, zones), peer)
            measure("C-GET, Orthanc killed", uids, root / "killed", lambda zones: killed(orthanc, zones, len(uids)))
            measure(
                "C-STORE, killed", uids, root / "killed2", lambda zones: pushed(orthanc, zones, kill=len(uids) // 3)
            )


def ways() -> dict[str, str]:
    side = f"&associations={_SIDE_BY_SIDE}"
    return {
        "C-MOVE": pacs.address(f"&retrieve=move{side}"),
        "C-GET": pacs.address(f"&retrieve=get{side}"),
        "WADO-RS": pacs.web_address(),
    }


def instances(folder: Path | None, count: int):
    """(SOPInstanceUID, bytes) of distinct instances."""
    if folder is None:
        contents = (
            one
            for patient in range(-(-count // 20))
            for one in phantom.phantom_study(patient=patient, instances=20, rows=512, columns=512)
        )
    else:
        contents = (path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    seen: set[str] = set()
    for content in contents:
        if len(seen) == count:
            return
        if content[128:132] != b"DICM":
            continue
        uid = str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(content), stop_before_pixels=True).SOPInstanceUID)
        if uid not in seen:
            seen.add(uid)
            yield uid, content


def measure(
    name: str,
    uids: Counter[str],
    workspace: Path,
    bring: Callable[[Zones], None],
    peer: psutil.Process | None = None,
) -> None:
    zones = Zones.under(workspace)
    started, cpu, theirs = time.monotonic(), time.process_time(), used(peer)
    bring(zones)
    seconds, cpu, theirs = time.monotonic() - started, time.process_time() - cpu, used(peer) - theirs
    files = [path for path in (zones.identified / "landing" / "pacs" / "files").rglob("*") if path.is_file()]
    here = Counter(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files)
    lost, doubled = len(uids - here), len(here - uids)
    count = sum(here.values())
    say(
        f"{name:<24}{count / seconds:>6.0f}/s by wall  {count / cpu:>6.0f} a CPU-second of ours"
        + (f", {count / theirs:>6.0f} of Orthanc's" if theirs else "")
        + f"  {seconds:5.1f} s  {lost} lost, {doubled} doubled"
    )


def used(process: psutil.Process | None) -> float:
    """CPU seconds so far."""
    times = process.cpu_times() if process is not None else None
    return times.user + times.system if times is not None else 0.0


def fetched(address: str, zones: Zones) -> None:
    ref = sources.register(place.parse(address), zones=zones, keyring=_KEYRING, name="pacs")
    fetch.fetch(ref, zones=zones, keyring=_KEYRING)


def killed(orthanc: pacs.Orthanc, zones: Zones, total: int) -> None:
    ref = sources.register(place.parse(ways()["C-GET"]), zones=zones, keyring=_KEYRING, name="pacs")
    once = threading.Event()

    def kill(done: int, _total: int) -> None:
        if done > total // 3 and not once.is_set():
            once.set()
            orthanc.kill()

    with contextlib.suppress(StoreUnavailable, InvalidRequest):
        fetch.fetch(ref, zones=zones, keyring=_KEYRING, on_progress=kill)
    orthanc.start()
    fetch.fetch(ref, zones=zones, keyring=_KEYRING)


def pushed(orthanc: pacs.Orthanc, zones: Zones, kill: int = 0) -> None:
    """Orthanc sends everything over four associations; killed after `kill` instances it sends everything again."""
    held = orthanc.ask("/instances")
    landing = Landing("pacs", zones=zones, keyring=_KEYRING)
    arrived = threading.Semaphore(0)
    with receiver.Receiver(
        landing, title="MEDGAN", host="127.0.0.1", port=pacs.MOVE_PORT, senders=[pacs.AET], on_arrival=arrived.release
    ):
        sending = send(orthanc, held)
        if kill:
            for _ in range(kill):
                arrived.acquire(timeout=60)
            orthanc.kill()
        for thread in sending:
            thread.join()
        if kill:
            orthanc.start()
            for thread in send(orthanc, held):
                thread.join()


def send(orthanc: pacs.Orthanc, held: list[str]) -> list[threading.Thread]:
    def part(number: int) -> None:
        with contextlib.suppress(OSError):
            body = "[" + ",".join(f'"{one}"' for one in held[number::_SIDE_BY_SIDE]) + "]"
            orthanc.ask("/modalities/medgan/store", body.encode())

    threads = [threading.Thread(target=part, args=(number,)) for number in range(_SIDE_BY_SIDE)]
    for thread in threads:
        thread.start()
    return threads


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0]) if arguments else None, int(arguments[1]) if len(arguments) > 1 else 400)
