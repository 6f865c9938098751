from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from medgan.cli import app
from medgan.errors import InvalidRequest
from medgan.records import CohortSpec, SyntheticCohort, Target
from medgan.synthesis import request

TOML = """
images = 96
seed = 7

[[targets]]
of = ["class", "sex"]
counts = { "pneumonia x F" = 30 }
"""
YAML = """
images: 96
seed: 7
targets:
  - of: [class, sex]
    counts: {pneumonia x F: 30}
"""


def test_toml_and_yaml_ask_for_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "a.yaml").write_text(YAML)
    asked = request.read(tmp_path / "a.toml")
    assert asked == request.read(tmp_path / "a.yaml")
    assert asked.targets == (Target(of=("class", "sex"), counts={"pneumonia x F": 30}),)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{}", "ends in"),
        ("a.toml", "images =", "not valid TOML"),
        ("a.yaml", "{", "not valid YAML"),
        ("a.yaml", "[]", "cannot be met"),
        ("a.toml", "images = 0", "images"),
        ("a.toml", "wishes = 3", "wishes"),
        ("a.toml", 'like = "the north"', "like"),
        ("a.toml", "images = 10\ntargets = [{of = ['sex'], counts = {F = 11}}]", "11 images of 10"),
        ("a.toml", "targets = [{of = ['sex'], shares = {F = 1}}, {of = ['sex'], shares = {M = 1}}]", "join them"),
    ],
)
def test_a_wrong_request_is_refused_with_the_field(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequest, match=says):
        request.read(tmp_path / name)


def test_a_request_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="cannot be read"):
        request.read(tmp_path / "none.toml")


def test_the_form_of_the_flow_is_the_record():
    schema = CohortSpec.model_json_schema()
    assert {"images", "targets", "like", "redraw_attempts", "precision", "attribute_epsilon"} <= set(
        schema["properties"]
    )
    assert set(schema["$defs"]["Target"]["properties"]["of"]["items"]["enum"]) == {
        "class",
        "sex",
        "age_band",
        "site",
        "view",
    }


def test_the_command_plans_makes_and_prints_the_record(trained, tmp_path, scheduler, monkeypatch):
    model, zones = trained
    monkeypatch.setenv("MEDGAN_SYNTHETIC_ROOT", str(tmp_path / "synthetic"))
    (tmp_path / "asked.toml").write_text(TOML)
    workspace = str(zones.pseudonymised.parent)
    command = ["synthesize", model.model, str(tmp_path / "asked.toml"), "--workspace", workspace]
    planned = CliRunner().invoke(app, [*command, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert "96 images in 1 blocks" in planned.stderr
    assert not (tmp_path / "synthetic").exists()
    made = CliRunner().invoke(app, [*command, "--scheduler", scheduler])
    assert made.exit_code == 0, made.output
    record = SyntheticCohort.model_validate(json.loads(made.stdout))
    assert record.images == 96
    again = CliRunner().invoke(
        app, ["redraw", record.synthetic, "3", "--workspace", workspace, "--scheduler", scheduler]
    )
    assert again.exit_code == 0, again.output
    assert SyntheticCohort.model_validate(json.loads(again.stdout)).redrawn_from == record.synthetic


@pytest.mark.parametrize("resource", ["GPU", "=1", "GPU=one"])
def test_a_resource_that_says_nothing_is_refused(trained, resource):
    model, zones = trained
    command = ["synthesize", model.model, "--workspace", str(zones.pseudonymised.parent), "--resource", resource]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InvalidRequest)


@pytest.mark.parametrize("handle", ["mo-" + "0" * 32, "../secret"])
def test_a_model_that_is_not_there_is_refused(trained, handle):
    _, zones = trained
    done = CliRunner().invoke(app, ["synthesize", handle, "--workspace", str(zones.pseudonymised.parent)])
    assert isinstance(done.exception, InvalidRequest)
