"""The Croissant file validates with nothing to complain of, and the labels load through it."""

from __future__ import annotations

import json

import pytest

from medgan.release import publish
from tests.builders import release as build

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),  # inside rdflib
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # mlcroissant on pandas 3.1
]


@pytest.fixture
def croissant(published):
    mlcroissant = pytest.importorskip("mlcroissant")
    return mlcroissant.Dataset(str(published.folder / "croissant.json"))


def test_croissant_has_no_errors_and_no_warnings(croissant):
    issues = croissant.metadata.ctx.issues
    assert list(issues.errors) == []
    assert list(issues.warnings) == []


def test_masks_are_described_with_no_errors_and_no_warnings_either(zones):
    mlcroissant = pytest.importorskip("mlcroissant")
    built = build.synthetic_cohort(zones, count=40, structures=("lung", "bone"))
    made = publish.publish(built.cleared, build.request(), zones=zones)
    path = zones.registry / made.name / made.version / "croissant.json"
    issues = mlcroissant.Dataset(str(path)).metadata.ctx.issues
    assert (list(issues.errors), list(issues.warnings)) == ([], [])


def test_labels_load_through_croissant(croissant, published):
    rows = list(croissant.records("labels"))
    labels = published.built.labels
    assert len(rows) == len(labels)
    assert [row["labels/id"] for row in rows] == labels["id"].tolist()
    assert [row["labels/class"].decode() for row in rows] == labels["class"].tolist()


def test_croissant_names_licence_privacy_and_limits_and_stays_inside_the_version(published):
    document = json.loads((published.folder / "croissant.json").read_bytes())
    assert document["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert document["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert document["prov:wasGeneratedBy"]
    for field in ("rai:personalSensitiveInformation", "rai:dataLimitations", "rai:dataUseCases"):
        assert document[field]
    paths = [item["contentUrl"] for item in document["distribution"]]
    assert paths == ["images.zarr/images/c/0/0/0", "images.zarr/images/c/1/0/0", "labels.parquet"]
