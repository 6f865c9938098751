"""What a registry holds, in records and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medgan.client import agreement, verify
from medgan.client import index as indexes
from medgan.client import pull as pulls
from medgan.client import registry as registries
from medgan.client import trust as trusts
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import IndexDataset, Manifest, sha256_hex


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


def structures(spec: str, *, registry: str | None = None, trust: Path | str | None = None) -> tuple[str, ...]:
    """What the masks of `NAME[@VERSION]` outline, in the order of their values; () of a version without masks."""
    link = pulls.connect(registry, trust=trust)
    return structures_of(link.source, info(spec, registry=link.source.address))


def structures_of(source: registries.Source, manifest: Manifest) -> tuple[str, ...]:
    """The same of a version whose signed manifest is here."""
    if not agreement.has_masks(manifest):
        return ()
    said = signed_json(source, manifest, agreement.description(agreement.MASKS))
    return agreement.structures(said.get("attributes") if isinstance(said, dict) else None, manifest)


def signed_json(source: registries.Source, manifest: Manifest, path: str) -> Any:
    """What the JSON file `path` of a version says, None where it is no JSON; `IntegrityError` unless it was signed."""
    digests = {file.path: file.sha256 for file in manifest.files}
    if path not in digests:
        raise IntegrityError("the signed manifest lists no such report or description: ask the publisher")
    body = registries.read_all(source, f"{manifest.name}/{manifest.version}/{path}")
    if sha256_hex(body) != digests[path]:
        raise IntegrityError("a report or description is not the one that was signed: ask the publisher")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


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
