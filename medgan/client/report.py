"""What a registry holds, in records and in words."""

from __future__ import annotations

from pathlib import Path

from medgan.client import index as indexes
from medgan.client import pull as pulls
from medgan.client import trust as trusts
from medgan.client import verify
from medgan.errors import InvalidRequest
from medgan.records import IndexDataset, Manifest


def versions(*, registry: str | None = None, trust: Path | str | None = None) -> tuple[IndexDataset, ...]:
    """Every data set of a registry with its channels and versions, by name."""
    link = pulls.connect(registry, trust=trust)
    return tuple(sorted(link.index.datasets, key=lambda entry: entry.name))


def info(spec: str, *, registry: str | None = None, trust: Path | str | None = None) -> Manifest:
    """The signed manifest of `NAME[@VERSION]`, read without pulling the images; withdrawn ones too."""
    link = pulls.connect(registry, trust=trust)
    entry, version = indexes.choose(link.index, spec, allow_withdrawn=True)
    keys = pulls.keys_due(link.trust.keys, version)
    return pulls.signed_manifest(link.source, entry.name, version, keys=keys)[0]


def verify_pulled(
    spec: str,
    *,
    registry: str | None = None,
    trust: Path | str | None = None,
    folder: Path | None = None,
    on_progress: verify.Progress | None = None,
) -> Manifest:
    """Check a version that lies in `folder` (default: the cache) against the registry's signed index.

    Progress is in bytes.
    """
    link = pulls.connect(registry, trust=trust)
    entry, version = indexes.choose(link.index, spec)
    place = folder or trusts.default_cache() / entry.name / version.version
    if not place.is_dir():
        raise InvalidRequest(f"{entry.name}@{version.version} is not here: medgan pull {entry.name}@{version.version}")
    keys = pulls.keys_due(link.trust.keys, version)
    pulls.sign_again(link.source, entry.name, version, keys=keys, folder=place)
    manifest = verify.verify_folder(place, keys=keys, name=entry.name, version=version.version, on_progress=on_progress)
    pulls.refuse_other(place, manifest, version)
    return manifest
