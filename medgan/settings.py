"""Where things live: one root a zone, and the keys.

The four zones of the house each have their own root, so that each can have its own credentials:
identified -> pseudonymised -> synthetic -> published. `Zones.under(workspace)` is the laptop's
arrangement; the environment (`MEDGAN_IDENTIFIED_ROOT`, ...) overrides single roots on a server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_ZONES = ("identified", "pseudonymised", "synthetic", "published", "keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """Absolute roots of the four zones and of the key folder (mode 0700)."""

    identified: Path
    pseudonymised: Path
    synthetic: Path
    published: Path
    keys: Path

    @classmethod
    def under(cls, workspace: str | Path) -> Zones:
        """Roots below `workspace`, each overridden by `MEDGAN_<ZONE>_ROOT` where that is set.

        Nothing is created: a verb makes the folder it writes to.
        """
        base = Path(workspace).expanduser().resolve()
        roots = {zone: Path(os.environ.get(f"MEDGAN_{zone.upper()}_ROOT") or base / zone).resolve() for zone in _ZONES}
        return cls(**roots)

    @property
    def pseudonym_key(self) -> str:
        """Handle of the pseudonym key: `MEDGAN_KEY`, or the file in the key folder."""
        return os.environ.get("MEDGAN_KEY") or f"file:{self.keys / 'pseudonym.key'}"

    @property
    def signing_key(self) -> Path:
        """The pipeline's Ed25519 private key (PEM, mode 0600)."""
        return self.keys / "pipeline.key"

    @property
    def registry(self) -> Path:
        """Root of the published registry (`index.json`, `<dataset>/<version>/`).

        Where `registry_address` is an object store: staging, and a receipt (the manifest) of each version.
        """
        return self.published / "registry"

    @property
    def registry_address(self) -> str:
        """Where versions are published: `MEDGAN_REGISTRY_ROOT` (a folder or `s3://bucket/prefix`), else `registry`."""
        return os.environ.get("MEDGAN_REGISTRY_ROOT") or str(self.registry)

    @property
    def catalogue(self) -> str:
        """Address of the catalogue's first page: `file://...` where the registry is a folder."""
        address = self.registry_address
        return f"{address}/index.html" if "://" in address else (Path(address).resolve() / "index.html").as_uri()
