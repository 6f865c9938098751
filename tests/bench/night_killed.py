"""Rounds of kill -9 spread over a whole night: it finishes on the next start, with the same bytes.

    python -m tests.bench.night_killed [ROUNDS]     default 12

The undisturbed night comes first. Each round starts the same night (same keys, same number, same start time) in a
fresh workspace, kills its process group after a share of the undisturbed time, and starts it again. A version that
the index lists at any moment, read 20 times a second, must verify against its signed manifest; the version of the
second start must be the undisturbed one's, manifest byte for byte; nothing partial may be left in any zone. The exit
status is the number of rounds that failed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from medgan import keys
from medgan.archive import phantom
from medgan.client import index as indexes
from medgan.client import registry, trust, verify
from medgan.collection import durable
from medgan.errors import MedganError
from medgan.night import LedgerEntry
from medgan.settings import Zones
from tests.builders.cohort import SAMPLES

ROOT = Path(__file__).parents[2]
PATIENTS = 800
SITE = {
    **yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text()),
    "training": {"recipe": "xray_32_cpu", "total_kimg": 8},
    "spec": {"images": 256},
}


class Nights:
    """One archive, and workspaces in which the same night runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.archive = root / "archive"
        phantom.build_demo_archive(self.archive, radiographs=SAMPLES, patients=PATIENTS)
        self.site = root / "site.yaml"
        self.site.write_text(yaml.safe_dump(SITE))
        self.undisturbed = root / "undisturbed"
        # A fixed key: pseudonyms decide the split, and so whether this small night is cleared.
        keys.create(self.undisturbed / "keys" / "pseudonym.key")
        (self.undisturbed / "keys" / "pseudonym.key").write_text("5e" * keys.SECRET_BYTES)

    def same_night(self, name: str) -> Path:
        """A fresh workspace with the undisturbed night's keys, number and start time."""
        workspace = self.root / name
        shutil.copytree(self.undisturbed / "keys", workspace / "keys")
        ledger = Path("pseudonymised/nights/chest-xray/0001.json")
        entry = LedgerEntry.model_validate_json((self.undisturbed / ledger).read_bytes())
        durable.write_bytes(workspace / ledger, LedgerEntry(night=entry.night).canonical())
        return workspace

    def start(self, workspace: Path) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MEDGAN_"))}
        with (workspace.parent / f"{workspace.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows", "nightly", "--archive", str(self.archive),
                 "--workspace", str(workspace), "--site", str(self.site)],
                cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def whole(self, workspace: Path) -> float:
        """Run the night to its end; seconds it took."""
        started = time.monotonic()
        with self.start(workspace) as process:
            if process.wait() != 0:
                say((workspace.parent / f"{workspace.name}.log").read_text()[-2000:])
                message = f"a night that nobody killed ended with {process.returncode}"
                raise RuntimeError(message)
        return time.monotonic() - started


class Watcher(threading.Thread):
    """Reads the registry 20 times a second and verifies each version that its index lists."""

    def __init__(self, workspace: Path) -> None:
        super().__init__(daemon=True)
        self.zones = Zones.under(workspace)
        self.faults: set[str] = set()
        self.reads = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.look()

    def look(self) -> None:
        root = self.zones.registry
        if not (root / "index.json").exists():
            return
        pinned = trust.Trust(registry=str(root), keys=trust.read_public(self.zones.keys / "pipeline.pub"))
        try:
            listed = indexes.fetch(registry.open_source(str(root)), pinned)
            for dataset in listed.datasets:
                for version in dataset.versions:
                    folder = root / dataset.name / version.version
                    verify.verify_folder(folder, keys=pinned.keys, name=dataset.name, version=version.version)
        except MedganError as error:
            self.faults.add(f"a reader saw {error.kind}")
        self.reads += 1


def faults_of(nights: Nights, workspace: Path) -> set[str]:
    """What is wrong with a finished workspace."""
    version = Path("published/registry/chest-xray/1.0.0")
    faults = set()
    if (workspace / version / "manifest.json").read_bytes() != (
        nights.undisturbed / version / "manifest.json"
    ).read_bytes():
        faults.add("another manifest")
    partial = re.compile(rf"{re.escape(durable.PARTIAL)}$|\.part$|\.staging$")
    zones = ("identified", "pseudonymised", "synthetic", "published")
    left = [path.name for zone in zones for path in (workspace / zone).rglob("*") if partial.search(path.name)]
    if left:
        faults.add(f"{len(left)} partial files left")
    versions = [path.name for path in (workspace / version).parent.iterdir()]
    if versions != ["1.0.0"]:
        faults.add(f"versions {versions}")
    return faults


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory(prefix="night-killed-") as scratch:
        nights = Nights(Path(scratch))
        seconds = nights.whole(nights.undisturbed)
        say(f"undisturbed: {seconds:.1f} s")
        failed = 0
        for number in range(rounds):
            workspace = nights.same_night(f"round-{number}")
            watcher = Watcher(workspace)
            watcher.start()
            moment = seconds * (number + 0.5) / rounds
            with nights.start(workspace) as process:
                time.sleep(moment)
                os.killpg(process.pid, signal.SIGKILL)
            reached = stage(workspace)
            recovery = nights.whole(workspace)
            watcher.over.set()
            watcher.join()
            watcher.look()
            faults = watcher.faults | faults_of(nights, workspace)
            failed += bool(faults)
            verdict = ", ".join(sorted(faults)) or f"same manifest; {watcher.reads} reads of the registry, all whole"
            say(
                f"round {number:>2}: killed after {moment:5.1f} s ({reached}), finished in {recovery:5.1f} s: {verdict}"
            )
            shutil.rmtree(workspace)
    say(f"{rounds - failed} of {rounds} rounds whole")
    return failed


def stage(workspace: Path) -> str:
    """How far a killed night was."""
    reached = "started"
    for place in (
        "pseudonymised/collection", "pseudonymised/cohorts", "pseudonymised/models", "synthetic/cohorts",
        "published/registry",
    ):  # fmt: skip
        folder = workspace / place
        if folder.is_dir() and any(folder.iterdir()):
            reached = place
    return reached


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12))
