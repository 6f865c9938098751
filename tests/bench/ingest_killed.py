"""Rounds of kill -9 at random moments of an ingest: nothing lost, nothing torn, nothing left behind.

    python -m tests.bench.ingest_killed [ROUNDS] [PATIENTS] [FIRST]     default 30, 200 and 0: the first round's seed

Each round starts an ingest in a process group of its own in a fresh workspace with the same key, kills the group
after a random part of the time that an undisturbed one takes (seed = round), and lets a second process finish. Odd
rounds count from where the ingest has begun to write, so that batches and the commit are hit as often as the start.
The content digest must be the undisturbed one's, the collection must have one commit, no staged or partial file may
be left, and the audit must hold one line an instance. The exit status is the number of rounds that failed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medgan import keys
from medgan.archive import phantom, scan, sources
from medgan.collection import dispatch, durable, ingest, layout, read, store
from medgan.deid import audit
from medgan.errors import InvalidRequest, MedganError
from medgan.records import sha256_hex
from medgan.settings import Zones
from tests.builders.cohort import SAMPLES

BATCH_INSTANCES = 10


def main(rounds: int, patients: int, first: int) -> int:
    with tempfile.TemporaryDirectory(prefix="ingest-killed-") as scratch:
        root = Path(scratch)
        planted = phantom.build_demo_archive(root / "demo", radiographs=SAMPLES, patients=patients, vendor_files=False)
        key = root / "key"
        keys.create(key)
        undisturbed, seconds = whole(root / "undisturbed", key, planted.archive)
        say(f"undisturbed: {undisturbed.instances} instances in {seconds:.1f} s")
        failed = 0
        for number in range(first, first + rounds):
            inside = number % 2 == 1
            draw = random.Random(number)  # noqa: S311 - a moment, not a secret
            moment = (draw.uniform(0.0, 0.4) if inside else draw.uniform(0.1, 1.0)) * seconds
            workspace = root / f"round-{number}"
            state = killed(workspace, key, planted.archive, moment, inside=inside)
            snapshot, recovery = whole(workspace, key, planted.archive)
            seconds = (seconds + recovery) / 2  # a busy machine changes its pace
            faults = faults_of(workspace, snapshot.table_sha256 == undisturbed.table_sha256)
            failed += bool(faults)
            verdict = ", ".join(faults) or "whole"
            since = f"{moment:5.1f} s" + (" of writing" if inside else "")
            say(f"round {number:>2}: killed after {since} ({state}), recovered in {recovery:5.1f} s: {verdict}")
            shutil.rmtree(workspace)
    say(f"{rounds - failed} of {rounds} rounds whole")
    return failed


def run(workspace: Path, archive: Path) -> None:
    """One ingest in this process."""
    dispatch.BATCH_INSTANCES = BATCH_INSTANCES
    zones = Zones.under(workspace)
    keyring = keys.load(zones.pseudonym_key)
    found = scan.scan(sources.register(archive, zones=zones, keyring=keyring), zones=zones, keyring=keyring)
    ingest.ingest(found, zones=zones, key_handle=zones.pseudonym_key, collection="main", workers=2)


def start(workspace: Path, key: Path, archive: Path) -> subprocess.Popen[bytes]:
    target = Zones.under(workspace).keys / "pseudonym.key"
    if not target.exists():
        target.parent.mkdir(parents=True, mode=0o700)
        shutil.copy2(key, target)
    command = [sys.executable, "-m", "tests.bench.ingest_killed", "run", str(workspace), str(archive)]
    return subprocess.Popen(command, start_new_session=True)


def whole(workspace: Path, key: Path, archive: Path):
    started = time.monotonic()
    with start(workspace, key, archive) as process:
        if process.wait() != 0:
            message = "an ingest that nobody killed failed"
            raise RuntimeError(message)
    return store.head("main", zones=Zones.under(workspace)), time.monotonic() - started


def killed(workspace: Path, key: Path, archive: Path, moment: float, *, inside: bool) -> str:
    """Kill an ingest after `moment` seconds, counted from its first batch where `inside`; says how far it was."""
    staged = layout.staging("main", zones=Zones.under(workspace))
    with start(workspace, key, archive) as process:
        while inside and not staged.is_dir() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    zones = Zones.under(workspace)
    try:
        if store.head("main", zones=zones).instances:
            return "committed"
    except InvalidRequest:
        return "not begun"
    staging = layout.staging("main", zones=zones)
    return f"{len(list(staging.glob('[0-9a-f]*')))} batches staged" if staging.is_dir() else "nothing staged"


def faults_of(workspace: Path, same: bool) -> list[str]:
    zones = Zones.under(workspace)
    faults = [] if same else ["another content"]
    left = [path for path in workspace.rglob("*") if path.name.endswith((durable.PARTIAL, ".part", ".staging"))]
    if left:
        faults.append(f"{len(left)} files left behind")
    orphans = chunks(workspace) - chunks(workspace.parent / "undisturbed")
    if orphans > 0:
        faults.append(f"{orphans} orphan chunks")
    if len(store.log("main", zones=zones)) != 1:
        faults.append("more than one commit")
    try:
        head = store.head("main", zones=zones)
        table = read.table(head, zones=zones)
        frames = read.frames(head, table, zones=zones)
        digests = [sha256_hex(frame.tobytes()) for frame in frames]
        if digests != table["pixel_sha256"].tolist():
            faults.append("torn pixels")
        log = layout.audit("main", zones=zones)
        audit.verify(log)
        audited = [line["source_sha256"] for line in audit.entries(log) if line["outcome"] == "stored"]
        if sorted(audited) != sorted(set(table["source_sha256"])):
            faults.append("audit lines lost or doubled")
    except MedganError as error:
        faults.append(error.kind)
    return faults


def chunks(workspace: Path) -> int:
    return len(list((layout.repository("main", zones=Zones.under(workspace)) / "chunks").iterdir()))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        sys.exit(main(*(numbers + [30, 200, 0][len(numbers) :])))
