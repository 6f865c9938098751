"""Whether a model is of single patients: then nothing made with it leaves the pseudonymised zone. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from medgan.errors import IntegrityError, PrivacyRefused
from medgan.settings import Zones

LEVEL, PATIENT, SITE = "level", "patient", "site"
MODEL_PREFIX = "mo-"
_CONFIG = "config.json"


def refuse_patient_level(handle: str, *, zones: Zones) -> None:
    """`PrivacyRefused` for a model that is an adapter to single patients, by its handle or by what lies in the store.

    A handle can be made up by whoever posts parameters; the description beside the weights was written when they were
    trained, and travels with them when somebody copies them among the models.
    """
    if not handle.startswith(MODEL_PREFIX) or is_patient_level(zones.pseudonymised / "models" / handle):
        raise PrivacyRefused(
            "this model was adapted to single patients, or its description is gone: it stays in the pseudonymised "
            "zone. Adapt to a site of at least 20 patients for images that may leave it"
        )


def base_of(handle: str, *, zones: Zones) -> str | None:
    """The model that this one was adapted from, or None: its patients may show in what this one makes."""
    try:
        described = json.loads((zones.pseudonymised / "models" / handle / _CONFIG).read_bytes())
        return str(described["adapted"]["base"]) if described.get("adapted") else None
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError("a model's description is broken: train or adapt it again") from None


def is_described(folder: Path) -> bool:
    """Whether the description is there: without it nobody knows what a model was adapted from."""
    return (folder / _CONFIG).is_file()


def is_patient_level(folder: Path) -> bool:
    """Whether the description in a model's folder says so, or cannot be read: what is not known leaves no zone."""
    try:
        return bool(json.loads((folder / _CONFIG).read_bytes()).get(LEVEL) == PATIENT)
    except (OSError, ValueError, AttributeError):
        return True
