"""One published cohort, and a team's cases of other patients from the same real radiographs."""

from __future__ import annotations

import numpy as np
import pytest

from medgan.quality import features
from tests.builders import release as build
from tests.builders.published import published, template

__all__ = ["published", "template"]


@pytest.fixture
def team_file(tmp_path):
    """120 radiographs that the release does not hold, by class name."""
    images, classes = build.radiographs(120, start=1200)
    path = tmp_path / "team.npz"
    np.savez(path, images=images, target=np.array(classes), patient=np.array([f"Doe^{n // 2}" for n in range(120)]))
    return path


@pytest.fixture(autouse=True)
def quick_encoder(monkeypatch):
    """Forty steps teach an encoder enough to tell stripes from blobs."""
    monkeypatch.setattr(features, "STEPS", 40)
