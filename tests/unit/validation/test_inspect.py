import pytest
from typer.testing import CliRunner

from medgan.settings import Zones
from medgan.validation.cli import app
from medgan.validation.inspect import inspect
from tests.builders.cohort import commit, radiographs, xray_rows


@pytest.fixture
def collection(tmp_path):
    pixels, labels = radiographs(30)
    zones = Zones.under(tmp_path)
    return zones, lambda **changes: commit(xray_rows(pixels, labels).assign(**changes), pixels, zones)


def test_a_clean_collection_has_no_finding(collection):
    zones, build = collection
    assert [finding.rule for finding in inspect(build(), zones=zones) if not finding.passed] == []


def test_odd_rows_are_counted_named_by_key_and_give_status_4(collection):
    zones, build = collection
    snapshot = build(thickness_mm=[-2.0] * 3 + [1.0] * 27)
    (failed,) = [finding for finding in inspect(snapshot, zones=zones) if not finding.passed]
    assert (failed.rule, failed.failing, failed.rows, len(failed.keys)) == ("thickness", 3, 30, 3)
    result = CliRunner().invoke(app, ["main", "--workspace", str(zones.keys.parent), "--keys"])
    assert result.exit_code == 4
    assert "thickness: 3 of 30" in result.output
    assert failed.keys[0] in result.output
