"""Another site's archive and last night's generator: `python -m flows adapt` brings one to the other."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from medgan import keys
from medgan.archive import scan, sources
from medgan.archive.phantom import build_demo_archive
from medgan.collection import ingest
from medgan.gan import level
from medgan.records import IngestOutcome, TrainedModel, TrainOutcome, ValidatedCohort
from medgan.settings import Zones
from tests.flows.conftest import RADIOGRAPHS, SITE

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(900)]

PATIENTS = 150
NORTH = {
    **SITE,
    "recipe": {**SITE["recipe"], "train_fraction": 0.6, "holdout_fraction": 0.2},  # both classes in every small split
    "adaptation": {"steps": 20},
}


def trained(zones):
    """What `flows train` would have printed of a night's generator: the first, where others have trained since."""
    record = min(zones.pseudonymised.glob("models/mo-*/model.json"), key=lambda path: path.stat().st_mtime_ns)
    model = TrainedModel.model_validate_json(record.read_bytes())
    cohorts = [
        ValidatedCohort.model_validate_json(one.read_bytes()) for one in zones.pseudonymised.rglob("validated.json")
    ]
    return TrainOutcome(cohort=next(one for one in cohorts if one.cohort.cohort == model.cohort), model=model)


def ingested(archive, zones):
    """What `flows ingest` would have printed of another archive."""
    keyring = keys.load(zones.pseudonym_key)
    found = scan.scan(sources.register(archive, zones=zones, keyring=keyring), zones=zones, keyring=keyring)
    stored = ingest.ingest(found, zones=zones, key_handle=zones.pseudonym_key, collection="north")
    return IngestOutcome(scan=found, ingest=stored)


def test_another_site_gets_a_model_of_its_own_from_the_nights_and_the_base_stays(site, first_night, tmp_path):
    assert first_night.returncode == 0, first_night.stderr[-3000:]
    # a copy: the other flow tests share the night's workspace and count what is in it
    workspace = shutil.copytree(site.workspace, tmp_path / "workspace", symlinks=True)
    zones = Zones.under(workspace)
    base, parameters = trained(zones), tmp_path / "north.yaml"
    build_demo_archive(tmp_path / "north", radiographs=RADIOGRAPHS, patients=PATIENTS, seed=8, vendor_files=False)
    (tmp_path / "north.json").write_bytes(ingested(tmp_path / "north", zones).canonical())
    (tmp_path / "train.json").write_bytes(base.canonical())
    parameters.write_text(yaml.safe_dump(NORTH))
    adapted = site.run(
        *("adapt", "--from", str(tmp_path / "north.json"), "--base", str(tmp_path / "train.json")),
        *("--site", str(parameters), "--workspace", str(workspace)),
    )
    assert adapted.returncode == 0, adapted.stderr[-3000:]
    outcome = TrainOutcome.model_validate_json(adapted.stdout)
    assert outcome.cohort.cohort.cohort != base.cohort.cohort.cohort
    assert 60 <= outcome.cohort.cohort.patients["train"] < PATIENTS
    models = zones.pseudonymised / "models"
    described = json.loads((models / outcome.model.model / "config.json").read_bytes())
    assert described["level"] == level.SITE
    assert described["adapted"]["base"] == base.model.model
    assert described["adapted"]["steps"] == 20
    assert TrainedModel.model_validate_json((models / base.model.model / "model.json").read_bytes()) == base.model
