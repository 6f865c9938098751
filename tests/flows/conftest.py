"""One small archive and one night, shared by every flow test of a session: Prefect's harness costs 20 s."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from medgan.archive.phantom import Planted

ROOT = Path(__file__).parents[2]
RADIOGRAPHS = ROOT / "tests/samples/pneumoniamnist/pneumoniamnist.npz"
PATIENTS = 800

SITE = {
    **yaml.safe_load((ROOT / "deployments/sites/demo.yaml").read_text()),
    "training": {"recipe": "xray_32_cpu", "total_kimg": 8},
    "spec": {"images": 256},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A workspace with a key, an archive of made-up patients, and the parameters of its nights."""

    folder: Path
    archive: Path
    workspace: Path
    parameters: Path
    planted: Planted

    def run(self, *command: str, module: str = "flows", **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m flows ...` in a process of its own, without a server; output captured."""
        return subprocess.run(
            [sys.executable, "-m", module, *command],
            cwd=ROOT,
            env=clean_environment() | environment,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )

    def nightly(self, *more: str, module: str = "flows", **environment: str) -> subprocess.CompletedProcess[str]:
        """One night over the archive."""
        return self.run(
            *("nightly", "--archive", str(self.archive), "--workspace", str(self.workspace)),
            *("--site", str(self.parameters)),
            *more,
            module=module,
            **environment,
        )


def clean_environment() -> dict[str, str]:
    """This environment without anybody's Prefect or medgan settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MEDGAN_"))}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A fresh site; nights are run by the tests."""
    from medgan import keys
    from medgan.archive.phantom import build_demo_archive

    folder = tmp_path_factory.mktemp("site")
    archive, workspace, parameters = folder / "archive", folder / "workspace", folder / "site.yaml"
    planted = build_demo_archive(archive, radiographs=RADIOGRAPHS, patients=PATIENTS)
    # A fixed key, because pseudonyms decide the split and with it everything that is measured.
    key = workspace / "keys" / "pseudonym.key"
    keys.create(key)
    key.write_text("5e" * keys.SECRET_BYTES)
    parameters.write_text(yaml.safe_dump(SITE))
    return Site(folder=folder, archive=archive, workspace=workspace, parameters=parameters, planted=planted)


@pytest.fixture(scope="session")
def first_night(site: Site) -> subprocess.CompletedProcess[str]:
    """The first night of the site, run from the command line as `make demo` does."""
    return site.nightly()
