"""The third border: a cleared synthetic cohort becomes an immutable, signed version.

Order is the whole safety: everything is written to a staging folder and fsynced; one rename makes the
version; the signed index that clients believe is replaced last. Killed before the rename, nothing was
published and the staging folder is thrown away; killed after it, the next run finds its own finished
folder and completes the index. No clock and no chance are involved: a rerun gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from medgan.client import disk, load, verify
from medgan.errors import Conflict, IntegrityError
from medgan.records import (
    ClearedCohort,
    Index,
    IndexDataset,
    IndexVersion,
    Manifest,
    Release,
    ReleaseRequest,
    ReleaseStatus,
    sha256_hex,
)
from medgan.release import catalogue, index, manifest, sign, version
from medgan.release.evidence import Evidence, collect
from medgan.settings import Zones

STAGING = ".staging"
LOCK = ".lock"
_BUSY = "another publication is under way in this registry: wait for it, then run again"


def publish(cleared: ClearedCohort, request: ReleaseRequest, *, zones: Zones) -> Release:
    """Publish `cleared` as the next version of `request.name`; the same night again gives the same release.

    Reports, verdict and digests are read again from the store first: `PrivacyRefused`, `IntegrityError`.
    `Conflict` when another publisher is at work, `StoreUnavailable` when the disk refuses.
    """
    evidence = collect(cleared, zones=zones)
    sign.ensure_key(zones)
    key = sign.load_key(zones.signing_key)
    registry = zones.registry
    with disk.locked(registry / LOCK, busy=_BUSY), disk.explained():
        disk.sweep(registry)
        table = index.read(registry, key)
        made = _finished(registry, request, evidence)
        if made is None:
            made = _build(registry, table, evidence, request, key)
        return _list(registry, table, made, request, key)


def _finished(registry: Path, request: ReleaseRequest, evidence: Evidence) -> Manifest | None:
    """The version that this night already made of this cohort, if its folder stands."""
    for made in manifests(registry / request.name):
        same_night = (made.night, made.created) == (request.night, request.created)
        if same_night and made.evidence is not None and made.evidence.synthetic == evidence.synthetic.synthetic:
            return made
    return None


def manifests(folder: Path) -> Iterator[Manifest]:
    """Manifests of all version folders of one data set, in order; listed in the index or not."""
    found = [path for path in folder.glob("*.*.*") if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(found, key=lambda path: version.parse(path.name)):
        try:
            yield Manifest.model_validate_json((path / verify.MANIFEST).read_bytes())
        except ValidationError:
            raise IntegrityError("a published manifest is malformed: restore it from a copy") from None


def _build(
    registry: Path, table: Index | None, evidence: Evidence, request: ReleaseRequest, key: Ed25519PrivateKey
) -> Manifest:
    """Write the whole version to staging, make it durable, and rename it into place."""
    number, previous = _number(registry, table, evidence, request)
    staging = registry / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left; we hold the lock
    staging.mkdir(parents=True)
    before = registry / request.name / previous.version if previous else None
    made = manifest.write_version(staging, evidence, request, number=number, previous=previous, before=before)
    body = made.canonical()
    (staging / verify.MANIFEST).write_bytes(body)
    (staging / verify.ENVELOPE).write_bytes(sign.sign_manifest(made, key))
    _check(staging, made, key)
    for path in staging.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    disk.fsync_tree(staging)
    target = registry / request.name / number
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise Conflict("that version stands already: run again")
    staging.rename(target)
    disk.fsync_folder(target.parent)
    disk.fsync_folder(registry)
    return made


def _check(staging: Path, made: Manifest, key: Ed25519PrivateKey) -> None:
    """What clients will do is done here first, by the same code; a version that fails is never renamed."""
    pem = sign.public_pem(key).decode()
    verify.verify_folder(staging, keys=(pem,), name=made.name, version=made.version)


def _number(
    registry: Path, table: Index | None, evidence: Evidence, request: ReleaseRequest
) -> tuple[str, Manifest | None]:
    """The next number and the manifest of the version before it."""
    standing = {made.version: made for made in manifests(registry / request.name)}
    entry = index.dataset(table, request.name)
    listed = [held.version for held in entry.versions] if entry else []
    highest = max({*standing, *listed}, key=version.parse, default=None)
    before = max((held for held in listed if held in standing), key=version.parse, default=None)
    if before is None:
        return version.following(highest, "major"), None
    old = load.open_folder(registry / request.name / before)
    step = version.change(
        version.Content(images=old.images, attributes=old.attrs, labels=old.labels, licence=old.manifest.licence),
        version.Content(
            images=evidence.images,
            attributes=evidence.attributes,
            labels=evidence.labels,
            licence=request.licence,
        ),
    )
    return version.following(highest, step), standing[before]


def _list(
    registry: Path, table: Index | None, made: Manifest, request: ReleaseRequest, key: Ed25519PrivateKey
) -> Release:
    """Put the version into the index and the catalogue unless it is there; the signed envelope goes last."""
    body = made.canonical()
    size = sum(file.size for file in made.files)
    entry = index.dataset(table, made.name)
    if entry is None or made.version not in {held.version for held in entry.versions}:
        added = IndexVersion(
            version=made.version,
            status=ReleaseStatus.PENDING if request.approval else ReleaseStatus.ACTIVE,
            created=made.created,
            manifest_sha256=sha256_hex(body),
            images=made.images,
            bytes=size,
            night=made.night,
            signatures=2 if request.approval else 1,
        )
        base = IndexDataset(name=made.name, title=made.title, licence=made.licence, channels={}, versions=())
        table = index.with_version(table, base, added, created=request.created)
        catalogue.write_registry(registry, table)
        index.write(registry, table, key)
    return Release(
        name=made.name, version=made.version, manifest_sha256=sha256_hex(body), images=made.images, bytes=size
    )
