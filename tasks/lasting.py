"""A Prefect server that goes on running: the one that the environment names, or Prefect's active profile.

The profile's file is read and Prefect is not asked: it takes seconds to import, and who watches is to stay small.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from medgan.errors import InvalidRequest

_ABOUT_THE_SERVER = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_SSL_CERT_FILE")


def adopt() -> None:
    """Put into the environment what the active profile says of its server; the environment's own word wins.

    Before `temporary.configure`, which gives Prefect another home.
    """
    profile = _active_profile()
    for name in _ABOUT_THE_SERVER:
        if name in profile:
            os.environ.setdefault(name, str(profile[name]))


def required() -> None:
    """`adopt`, and `InvalidRequest` if no server is named: for what only one that goes on running can do."""
    adopt()
    if not os.environ.get("PREFECT_API_URL"):
        message = "this takes a Prefect server that goes on running: set PREFECT_API_URL, or `prefect config set` it"
        raise InvalidRequest(message)


def _active_profile() -> dict[str, Any]:
    """As `prefect profile inspect` shows it; empty where there is none."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        known = tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    active = os.environ.get("PREFECT_PROFILE") or known.get("active")
    profile: dict[str, Any] = known.get("profiles", {}).get(active, {})
    return profile
