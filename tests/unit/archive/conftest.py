from __future__ import annotations

from pathlib import Path

import pytest

from medgan.settings import Zones
from tests.unit.archive.builders import zones_under


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    return zones_under(tmp_path / "workspace")
