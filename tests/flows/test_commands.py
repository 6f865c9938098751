"""What a command is given is checked before Prefect writes it down: nothing of it may stand in the database."""

from __future__ import annotations

import logging
import sys

import pytest
import yaml
from typer.testing import CliRunner

from flows.__main__ import app, main
from medgan.errors import InvalidRequest
from tests.flows.conftest import SITE


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """`refusal(COMMAND...)`: how a command is refused, while no server can be reached."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MEDGAN_WORKSPACE", str(tmp_path))  # what a command sets is set back
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name, value in (("PREFECT_SERVER_ANALYTICS_ENABLED", "false"), ("DO_NOT_TRACK", "1")):
        monkeypatch.setenv(name, value)

    def run(*command: str) -> str:
        result = CliRunner().invoke(app, [*command, "--workspace", str(tmp_path)])
        assert isinstance(result.exception, InvalidRequest), result.exception
        return str(result.exception)

    return run


def test_the_original_id_of_a_patient_typed_by_mistake_reaches_nobody_and_no_log(refusal):
    heard = []
    ear = logging.Handler()
    ear.emit = lambda record: heard.append(record.getMessage())
    for name in ("prefect.flows", "prefect", None):
        logging.getLogger(name).addHandler(ear)
    try:
        said = refusal("erase", "DOE^JANE")
    finally:
        for name in ("prefect.flows", "prefect", None):
            logging.getLogger(name).removeHandler(ear)
    assert "patient" in said
    assert "DOE" not in said + "".join(heard)


def test_a_mistake_is_one_line_whatever_the_width_of_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flows", "train", "--from", str(tmp_path / "none"), "--workspace", str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trainning": {"total_kimg": 9}}, "no parameter trainning"),
        ({True: "on, as YAML reads it"}, "no parameter True"),
        ({"ask_hours": "DOE"}, "ask_hours"),
        ({"policy": "none at all"}, "policy"),
        ({"training": {"total_kimg": -1}}, "total_kimg"),
        ({"recipe": None}, "CohortRecipe"),
    ],
)
def test_a_mistake_in_a_sites_file_is_told_before_the_server_hears_of_it(refusal, tmp_path, changed, said):
    site = tmp_path / "north.yaml"
    site.write_text(yaml.safe_dump({**SITE, **changed}))
    told = refusal("deploy", "--site", str(site))
    assert said in told
    assert "DOE" not in told


def test_a_site_without_a_name_for_its_data_set_is_told_so(refusal, tmp_path):
    site = tmp_path / "north.yaml"
    site.write_text(yaml.safe_dump({key: value for key, value in SITE.items() if key != "dataset"}))
    assert "needs a name" in refusal("deploy", "--site", str(site))


def test_a_file_that_is_no_text_or_nested_without_end_is_told_so(refusal, tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    assert "no text" in refusal("train", "--from", str(tmp_path / "binary"))
    (tmp_path / "deep.yaml").write_text("[" * 3000)
    assert "not a YAML mapping" in refusal("deploy", "--site", str(tmp_path / "deep.yaml"))


@pytest.mark.parametrize("command", [("deploy",), ("watch", "incoming")])
def test_what_takes_a_lasting_server_starts_no_temporary_one(refusal, monkeypatch, command):
    monkeypatch.delenv("PREFECT_API_URL")
    assert "goes on running" in refusal(*command)
