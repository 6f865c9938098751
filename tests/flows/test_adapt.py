"""Another site's archive and last night's generator: the commands of docs/restoration.md, run as a person runs them."""

from __future__ import annotations

import json

import pytest
import yaml

from medgan.archive.phantom import build_demo_archive
from medgan.gan import level
from medgan.records import TrainedModel, TrainOutcome, ValidatedCohort
from medgan.settings import Zones
from tests.flows.conftest import RADIOGRAPHS, SITE

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(900)]


def trained(workspace):
    """What `flows train` would have printed of the night's generator."""
    zone = workspace / "pseudonymised"
    model = TrainedModel.model_validate_json(next(zone.glob("models/mo-*/model.json")).read_bytes())
    cohorts = [ValidatedCohort.model_validate_json(path.read_bytes()) for path in zone.rglob("validated.json")]
    return TrainOutcome(cohort=next(one for one in cohorts if one.cohort.cohort == model.cohort), model=model)


def test_a_second_site_gets_a_model_of_its_own_from_the_first_ones(site, first_night, tmp_path):
    assert first_night.returncode == 0, first_night.stderr[-3000:]
    base = trained(site.workspace)
    archive, parameters = tmp_path / "north", tmp_path / "north.yaml"
    build_demo_archive(archive, radiographs=RADIOGRAPHS, patients=150, seed=8, vendor_files=False)
    parameters.write_text(yaml.safe_dump({**SITE, "adaptation": {"steps": 20}}))
    (tmp_path / "train.json").write_bytes(base.canonical())
    there = ("--workspace", str(site.workspace))
    ingested = site.run("ingest", "--archive", str(archive), "--collection", "north", *there)
    assert ingested.returncode == 0, ingested.stderr[-3000:]
    (tmp_path / "north.json").write_text(ingested.stdout)
    adapted = site.run(
        *("adapt", "--from", str(tmp_path / "north.json"), "--base", str(tmp_path / "train.json")),
        *("--site", str(parameters)),
        *there,
    )
    assert adapted.returncode == 0, adapted.stderr[-3000:]
    outcome = TrainOutcome.model_validate_json(adapted.stdout)
    assert outcome.model.model != base.model.model
    assert outcome.cohort.cohort.cohort != base.cohort.cohort.cohort
    described = json.loads(
        (Zones.under(site.workspace).pseudonymised / "models" / outcome.model.model / "config.json").read_bytes()
    )
    assert described["level"] == level.SITE
    assert described["adapted"]["base"] == base.model.model
