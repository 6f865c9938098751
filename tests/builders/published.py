"""Fixtures of the release and client tests: one published cohort, built once a session and copied."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from medgan.records import Release
from medgan.release import publish
from medgan.settings import Zones
from tests.builders import release as build


@dataclass(frozen=True)
class Published:
    """A workspace with one release in it."""

    zones: Zones
    built: build.Built
    release: Release

    @property
    def folder(self) -> Path:
        """Folder of the version."""
        return self.zones.registry / self.release.name / self.release.version

    @property
    def key(self) -> Path:
        """The public key that its publisher hands over."""
        return self.zones.keys / "pipeline.pub"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that is only copied from."""
    workspace = tmp_path_factory.mktemp("template")
    zones = Zones.under(workspace)
    publish.publish(build.synthetic_cohort(zones).cleared, build.request(), zones=zones)
    return workspace


@pytest.fixture
def published(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A fresh copy of the published workspace, and an empty home for the client."""
    monkeypatch.setenv("MEDGAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDGAN_REGISTRY", raising=False)
    workspace = tmp_path / "workspace"
    shutil.copytree(template, workspace)
    zones = Zones.under(workspace)
    built = build.synthetic_cohort(zones)
    return Published(zones, built, publish.publish(built.cleared, build.request(), zones=zones))


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    """An empty workspace."""
    return Zones.under(tmp_path / "workspace")
