"""A cohort asked for in a file: TOML or YAML of `CohortSpec`.

images = 10000
seed = 7

[[targets]]
of = ["sex"]
shares = { F = 0.6 }

[[targets]]
of = ["class", "age_band"]
counts = { "pneumonia x 60+" = 1500 }
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medgan.errors import InvalidRequest
from medgan.records import CohortSpec

SUFFIXES = (".toml", ".yaml", ".yml")


def read(path: Path) -> CohortSpec:
    """The request in a file; `InvalidRequest` says which field is wrong, never what was written there."""
    if path.suffix not in SUFFIXES:
        raise InvalidRequest(f"a request is a file that ends in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest("the request's file cannot be read as UTF-8 text") from None
    found = _parsed(text, path.suffix)
    try:
        return CohortSpec.model_validate(found)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors())
        raise InvalidRequest(f"the request cannot be met as it stands: {mistakes}") from None


def _parsed(text: str, suffix: str) -> Any:
    import yaml

    try:
        return tomllib.loads(text) if suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError):
        raise InvalidRequest(f"the request's file is not valid {suffix.removeprefix('.').upper()}") from None
