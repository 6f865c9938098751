"""A model that was brought to another site's images goes the whole way: gate, version, and pulled by somebody else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medgan.client import load
from medgan.cohort import prepare
from medgan.gan import site
from medgan.privacy import attack, gate
from medgan.quality import features, measure
from medgan.records import AdaptRequest, CohortSpec, ReleaseRequest, Verdict
from medgan.release import publish
from medgan.settings import Zones
from medgan.synthesis.generate import generate
from medgan.validation import admit
from tests.builders.cohort import commit, pneumonia_cohort, radiographs, xray_recipe, xray_rows
from tests.builders.model import brief_model


@pytest.fixture
def north(tmp_path):
    """Zones, a generator of one site, and the admitted cohort of another whose scanner has other tones."""
    zones = Zones.under(tmp_path)
    base = brief_model(pneumonia_cohort(zones, images=300), zones)
    pixels, labels = radiographs(300)
    bright = np.rint(255 * (pixels / 255) ** 0.5).astype(np.uint8)
    snapshot = commit(xray_rows(bright, labels), bright, zones, "north")
    return zones, base, admit.admit(prepare.prepare(snapshot, xray_recipe(), zones=zones), zones=zones)


def test_a_sites_model_is_cleared_published_and_pulled_and_says_what_it_was_made_of(north, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "STEPS", 20)
    zones, base, cohort = north
    model = site.adapt_to_site(base, cohort, AdaptRequest(steps=10), zones=zones)
    made = generate(model, CohortSpec(images=160), zones=zones, workers=1)
    privacy = attack.attack(made, cohort, zones=zones, policy="internal")
    assert privacy.verdict == Verdict.CLEARED, [test for test in privacy.tests if not test.passed]
    cleared = gate.clear(made, measure.measure(made, cohort, zones=zones), privacy, zones=zones)
    request = ReleaseRequest(
        name="north", created="2026-11-29T00:00:00Z", night=1, title="North", licence="CC-BY-4.0", terms="Research."
    )
    release = publish.publish(cleared, request, zones=zones)
    pulled = load.load(
        "north", registry=zones.registry_address, trust=zones.keys / "pipeline.pub", cache=tmp_path / "cache"
    )
    assert (release.version, len(pulled.images)) == (pulled.version, 160)
    assert {test.test for test in privacy.tests if test.title.endswith(", base")} >= {"G1", "G2", "G4", "G9"}
    assert base.model not in json.dumps(pulled.manifest.model_dump(mode="json"))
