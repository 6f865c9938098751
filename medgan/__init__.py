"""medgan: imaging archives nobody may share, turned into synthetic data sets that may be shared.

    dataset = medgan.load("chest-xray-synthetic", registry="https://...", trust="pipeline.pub")
    dataset.images, dataset.labels, dataset.torch()

Names are resolved when first used: importing medgan costs milliseconds and loads neither torch nor zarr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgan.client.load import Dataset, load, open_folder
    from medgan.client.pull import pull
    from medgan.client.report import info, versions
    from medgan.client.verify import verify_folder
    from medgan.errors import (
        Conflict,
        IntegrityError,
        InvalidRequest,
        MedganError,
        PrivacyRefused,
        StoreUnavailable,
    )
    from medgan.settings import Zones

_HOMES = {
    "Dataset": "medgan.client.load",
    "load": "medgan.client.load",
    "open_folder": "medgan.client.load",
    "pull": "medgan.client.pull",
    "info": "medgan.client.report",
    "versions": "medgan.client.report",
    "verify_folder": "medgan.client.verify",
    "Conflict": "medgan.errors",
    "IntegrityError": "medgan.errors",
    "InvalidRequest": "medgan.errors",
    "MedganError": "medgan.errors",
    "PrivacyRefused": "medgan.errors",
    "StoreUnavailable": "medgan.errors",
    "Zones": "medgan.settings",
}

__all__ = [
    "Conflict",
    "Dataset",
    "IntegrityError",
    "InvalidRequest",
    "MedganError",
    "PrivacyRefused",
    "StoreUnavailable",
    "Zones",
    "info",
    "load",
    "open_folder",
    "pull",
    "verify_folder",
    "versions",
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when it is first asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
