import io
import zipfile
from pathlib import Path

import pytest

from medgan import keys
from medgan.archive import phantom, scan, sources
from medgan.collection import dispatch, ingest
from medgan.settings import Zones
from tests.builders.cohort import SAMPLES


@pytest.fixture(scope="session")
def scheduler():
    from medgan import cluster

    with cluster.open_client(workers=2) as client:
        yield client.scheduler.address


@pytest.fixture
def zones(tmp_path):
    zones = Zones.under(tmp_path / "workspace")
    keys.create(zones.keys / "pseudonym.key")
    return zones


@pytest.fixture
def run(zones, scheduler):
    def run(archive: Path, **options):
        keyring = keys.load(zones.pseudonym_key)
        found = scan.scan(sources.register(archive, zones=zones, keyring=keyring), zones=zones, keyring=keyring)
        arguments = {"key_handle": zones.pseudonym_key, "collection": "main", "scheduler": scheduler} | options
        return ingest.ingest(found, zones=zones, **arguments)

    return run


@pytest.fixture
def staged(monkeypatch):
    """How many instances each run worked on."""
    counts: list[int] = []
    whole = dispatch.stage_all

    def counted(plan, *args, **kwargs):
        counts.append(sum(len(batch.locators) for batch in plan.batches))
        return whole(plan, *args, **kwargs)

    monkeypatch.setattr(dispatch, "stage_all", counted)
    return counts


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in members.items():
            target.writestr(zipfile.ZipInfo(name), content)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture
def demo(tmp_path):
    def demo(patients, **options):
        folder = tmp_path / f"demo-{patients}"
        return phantom.build_demo_archive(folder, radiographs=SAMPLES, patients=patients, **options)

    return demo
