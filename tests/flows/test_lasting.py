"""Where a server was named by `prefect config set`, whoever needs it finds it, without importing Prefect."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medgan.errors import InvalidRequest
from tasks import lasting
from tests.flows.conftest import clean_environment

OURS = {"PREFECT_API_URL": "https://prefect.example.org/api", "PREFECT_API_AUTH_STRING": "medgan:a=b"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of Prefect's of our own, and nothing of Prefect's in the environment; what is set is set back."""
    for name in [*os.environ, *OURS, "PREFECT_API_SSL_CERT_FILE"]:
        if name.startswith("PREFECT_"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def test_what_prefect_was_told_is_found(home):
    told = [f"{name}={value}" for name, value in OURS.items()]
    command = [sys.executable, "-m", "prefect", "config", "set", *told]
    subprocess.run(command, env=clean_environment() | {"PREFECT_HOME": str(home)}, check=True, capture_output=True)
    lasting.required()
    assert {name: os.environ[name] for name in OURS} == OURS


def test_the_environment_wins_and_so_does_the_profile_that_it_names(home, monkeypatch):
    (home / "profiles.toml").write_text(
        'active = "one"\n[profiles.one]\nPREFECT_API_URL = "one"\n'
        '[profiles.two]\nPREFECT_API_URL = "two"\nPREFECT_API_AUTH_STRING = "two"\nPREFECT_LOGGING_LEVEL = "DEBUG"\n'
    )
    monkeypatch.setenv("PREFECT_PROFILE", "two")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "environment")
    lasting.adopt()
    assert (os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]) == ("two", "environment")
    assert "PREFECT_LOGGING_LEVEL" not in os.environ


@pytest.mark.parametrize("text", [None, "", 'active = "gone"', "no TOML", "active = 1\nprofiles = {}"])
def test_where_nobody_names_a_server_the_refusal_says_how(home, text):
    if text is not None:
        (home / "profiles.toml").write_text(text)
    with pytest.raises(InvalidRequest, match="PREFECT_API_URL"):
        lasting.required()
