"""One restorer that learned from the real fruit volume's kind of images, and a folder with good and bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medgan.gan import restore
from medgan.gan.restore_config import RestoreConfig
from medgan.gan.restorer import Shape
from medgan.gan.scans import Scans
from tests.unit.restoration.builders import instance, phantoms

TINY = Shape(widths=(8, 12, 16), blocks=1, critic_widths=(8, 8))


def model(folder, task, modality="MR"):
    config = RestoreConfig(
        task=task, steps=6, adversarial_steps=2, window_px=32, batch=2, shape=TINY, penalty_every=2, tick_steps=4
    )
    scans = Scans(images=phantoms(40), patient=np.arange(40) // 4)
    return restore.fit(scans, config, folder, attrs={"modality": modality, "window": None})


@pytest.fixture(scope="session")
def twice(tmp_path_factory):
    return model(tmp_path_factory.mktemp("twice"), "super-resolution-x2")


@pytest.fixture(scope="session")
def painter(tmp_path_factory):
    return model(tmp_path_factory.mktemp("painter"), "inpaint")


@pytest.fixture
def archive(tmp_path):
    """Three good slices, and one of each kind that must be refused."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(3):
        (folder / f"good{number}.dcm").write_bytes(instance(phantoms(43)[40 + number], number=number))
    (folder / "cut.dcm").write_bytes(instance(phantoms(1)[0], number=9)[:900])
    (folder / "notes.txt").write_text("Jane Doe was here")
    for name in ("CT_small.dcm", "rtplan.dcm"):
        (folder / name).write_bytes(Path(get_testdata_file(name)).read_bytes())
    return folder
