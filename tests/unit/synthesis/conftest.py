from __future__ import annotations

from collections.abc import Iterator

import pytest

from medgan import cluster
from medgan.records import TrainedModel
from medgan.settings import Zones
from tests.builders.cohort import pneumonia_cohort
from tests.builders.model import brief_model


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[TrainedModel, Zones]:
    """A briefly trained generator and the workspace it lies in."""
    zones = Zones.under(tmp_path_factory.mktemp("synthesis"))
    return brief_model(pneumonia_cohort(zones, images=400), zones), zones


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of one running cluster of two workers: starting one for each test would be most of their time."""
    with cluster.open_client(workers=2) as client:
        yield client.scheduler.address
