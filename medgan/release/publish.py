"""The third border: a cleared synthetic cohort becomes an immutable, signed version.

Order is the whole safety: everything is written to a staging folder, checked as a client would, and put into the
registry; the signed index that clients believe is replaced last (`medgan.release.stores` says how a folder and an
object store each keep that). Killed before, nothing was published; killed in between, the next run finds what it
made and completes it. No clock and no chance are involved: a rerun gives the same bytes.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping

import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from medgan.client import agreement, diff, shards, trust, verify
from medgan.client.index import ENVELOPE
from medgan.client.load import LABELS
from medgan.cohort.stored import IMAGES, MASKS
from medgan.errors import IntegrityError
from medgan.records import (
    ClearedCohort,
    Index,
    IndexDataset,
    IndexVersion,
    Manifest,
    ManifestFile,
    Release,
    ReleaseRequest,
    ReleaseStatus,
    sha256_hex,
)
from medgan.release import catalogue, images, index, manifest, sign, version
from medgan.release.evidence import Evidence, collect
from medgan.release.stores import STAGING, Held, Store, open_store
from medgan.settings import Zones


def publish(cleared: ClearedCohort, request: ReleaseRequest, *, zones: Zones) -> Release:
    """Publish `cleared` as the next version of `request.name`; the same night again gives the same release.

    Reports, verdict and digests are read again from the store first: `PrivacyRefused`, `IntegrityError`.
    `Conflict` when another publisher is at work or won, `StoreUnavailable` when disk or object store refuse.
    """
    evidence = collect(cleared, zones=zones)
    sign.ensure_key(zones)
    key = sign.load_key(zones.signing_key)
    store = open_store(zones)
    with store.turn():
        table, held = index.read(store, key)
        made = _finished(store, table, request, evidence, key)
        if made is None or not store.whole(made):
            made = _build(store, table, evidence, request, key, begun=made)
        return _list(store, table, held, made, key, approval=request.approval or evidence.approval)


def _finished(
    store: Store, table: Index | None, request: ReleaseRequest, evidence: Evidence, key: Ed25519PrivateKey
) -> Manifest | None:
    """The version that this night already made, or began to make, of this cohort; not what an older key signed."""
    entry = index.dataset(table, request.name)
    others = {held.version for held in entry.versions if held.night != request.night} if entry else set()
    for made in manifests(store, request.name, leave=others):
        same_night = (made.night, made.created) == (request.night, request.created)
        if same_night and made.evidence is not None and made.evidence.synthetic == evidence.synthetic.synthetic:
            signed = store.read(f"{made.name}/{made.version}/{verify.ENVELOPE}")
            if signed is None or sign.signed_by(signed.body, sign.public_pem(key).decode(), kind=trust.STATEMENT_TYPE):
                return made
    return None


def manifests(store: Store, name: str, *, leave: set[str] | None = None) -> Iterator[Manifest]:
    """Manifests of the versions of a data set that stand, in order, listed or not; not those to `leave`."""
    for number in sorted(set(store.versions(name)) - (leave or set()), key=version.parse):
        held = store.read(f"{name}/{number}/{verify.MANIFEST}")
        if held is not None:
            yield _manifest(held)


def _manifest(held: Held) -> Manifest:
    try:
        return Manifest.model_validate_json(held.body)
    except ValidationError:
        raise IntegrityError("a published manifest is malformed: restore it from a copy") from None


def _build(
    store: Store,
    table: Index | None,
    evidence: Evidence,
    request: ReleaseRequest,
    key: Ed25519PrivateKey,
    *,
    begun: Manifest | None,
) -> Manifest:
    """Write the whole version to staging, check it, and make it stand; `begun` is one of ours that was broken off."""
    number, previous = _number(store, table, evidence, request)
    made = _staged(store, evidence, request, key, number=begun.version if begun else number, previous=previous)
    if begun is not None and made != begun:  # another version of medgan began it: its number is spent
        made = _staged(store, evidence, request, key, number=number, previous=previous)
    store.place(store.desk / STAGING, made, previous)
    shutil.rmtree(store.desk / STAGING, ignore_errors=True)
    return made


def _staged(
    store: Store,
    evidence: Evidence,
    request: ReleaseRequest,
    key: Ed25519PrivateKey,
    *,
    number: str,
    previous: Manifest | None,
) -> Manifest:
    """Write version `number` to the staging folder, and do to it what clients will do, by the same code."""
    staging = store.desk / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left; it is our turn
    staging.mkdir(parents=True)
    before = diff.told(store.source, previous) if previous else None
    made = manifest.write_version(staging, evidence, request, number=number, previous=previous, before=before)
    (staging / verify.MANIFEST).write_bytes(made.canonical())
    (staging / verify.ENVELOPE).write_bytes(sign.sign_manifest(made, key))
    pem = sign.public_pem(key).decode()
    verify.verify_folder(staging, keys=(pem,), name=made.name, version=made.version)
    return made


def _number(
    store: Store, table: Index | None, evidence: Evidence, request: ReleaseRequest
) -> tuple[str, Manifest | None]:
    """The next number and the manifest of the version before it."""
    standing = store.versions(request.name)
    entry = index.dataset(table, request.name)
    listed = [held.version for held in entry.versions] if entry else []
    highest = max({*standing, *listed}, key=version.parse, default=None)
    before = max((held for held in listed if held in standing), key=version.parse, default=None)
    found = store.read(f"{request.name}/{before}/{verify.MANIFEST}") if before else None
    if found is None:
        return version.following(highest, "major"), None
    old = _manifest(found)
    new = version.Content(arrays=evidence.arrays, labels=evidence.labels, licence=request.licence)
    standing_content = _content(store, old)
    step = version.change(standing_content, new) if standing_content is not None else "major"
    return version.following(highest, step), old


def _content(store: Store, old: Manifest) -> version.Standing | None:
    """What decides the next number, from small files of a published version; None when its layout is another one."""
    listed = {file.path: file for file in old.files}

    def body(path: str) -> bytes:
        held = store.read(f"{old.name}/{old.version}/{path}")
        if held is None or path not in listed or sha256_hex(held.body) != listed[path].sha256:
            raise IntegrityError("the version before this one is damaged: restore it from a copy, or withdraw it")
        return held.body

    arrays = {}
    for name in (IMAGES, *([MASKS] if agreement.description(MASKS) in listed else [])):
        layout = shards.parse_layout(body(agreement.description(name)))
        if layout is None:
            return None
        arrays[name] = _standing(layout, name, listed)
    return version.Standing(arrays=arrays, labels=pd.read_parquet(io.BytesIO(body(LABELS))), licence=old.licence)


def _standing(layout: shards.Layout, name: str, listed: Mapping[str, ManifestFile]) -> version.StandingArray:
    count = -(-layout.shape[0] // layout.shard_rows)
    paths = [f"{manifest.IMAGES}/{images.shard_name(number, len(layout.shape), name)}" for number in range(count)]
    return version.StandingArray(
        shape=layout.shape,
        dtype=layout.dtype,
        shard_rows=layout.shard_rows,
        pixel_sha256=tuple(str(listed[path].pixel_sha256) if path in listed else "" for path in paths),
        attributes=layout.attributes,
    )


def _list(
    store: Store,
    table: Index | None,
    held: Held | None,
    made: Manifest,
    key: Ed25519PrivateKey,
    *,
    approval: bool,
) -> Release:
    """Put the version into the index and the catalogue unless it is there; the signed envelope decides.

    With `approval` it waits there for its second signature.
    """
    size = sum(file.size for file in made.files)
    entry = index.dataset(table, made.name)
    found = next((known for known in entry.versions if known.version == made.version), None) if entry else None
    if table is None or found is None:
        found = IndexVersion(
            version=made.version,
            status=ReleaseStatus.PENDING if approval else ReleaseStatus.ACTIVE,
            created=made.created,
            manifest_sha256=made.digest,
            images=made.images,
            bytes=size,
            night=made.night,
            signatures=2 if approval else 1,
        )
        base = IndexDataset(name=made.name, title=made.title, licence=made.licence, channels={}, versions=())
        table = index.with_version(table, base, found, created=made.created)
        write_index(store, table, held, key)
    else:
        mend(store, table, key)
    return Release(
        name=made.name,
        version=made.version,
        manifest_sha256=made.digest,
        images=made.images,
        bytes=size,
        pending=found.status is ReleaseStatus.PENDING,
    )


def registry_files(store: Store, table: Index, key: Ed25519PrivateKey) -> dict[str, bytes]:
    """Every file of the registry itself for `table`: the catalogue's page and status, the index, its envelope."""
    standing = {entry.name: set(store.versions(entry.name)) for entry in table.datasets}
    return {**catalogue.registry_pages(table, standing), **index.files(table, key)}


def write_index(store: Store, table: Index, held: Held | None, key: Ed25519PrivateKey) -> None:
    """Make `table` the registry's index if the one that was read (`held`) still is it; else `Conflict`."""
    store.write_index(registry_files(store, table, key), held)


def mend(store: Store, table: Index, key: Ed25519PrivateKey) -> None:
    """Write again what a killed run did not come to: pages of an index that is in force."""
    behind = {}
    for path, body in registry_files(store, table, key).items():
        held = store.read(path)
        if path != ENVELOPE and (held is None or held.body != body):
            behind[path] = body
    if behind:
        store.write_index(behind, None)
