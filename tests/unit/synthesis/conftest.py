from __future__ import annotations

import pytest

from medgan.records import TrainedModel
from medgan.settings import Zones
from tests.builders.cohort import pneumonia_cohort
from tests.builders.model import brief_model


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[TrainedModel, Zones]:
    """A briefly trained generator and the workspace it lies in."""
    zones = Zones.under(tmp_path_factory.mktemp("synthesis"))
    return brief_model(pneumonia_cohort(zones, images=400), zones), zones
