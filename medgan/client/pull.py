"""Bring a version here: every byte checked against the signed manifest, visible only when whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from medgan.client import disk, verify
from medgan.client import index as indexes
from medgan.client import registry as registries
from medgan.client import trust as trusts
from medgan.client.registry import Source
from medgan.client.trust import Trust
from medgan.client.verify import Progress
from medgan.errors import IntegrityError, InvalidRequest, StoreUnavailable
from medgan.records import Index, IndexVersion, Manifest, ManifestFile, sha256_hex
from medgan.sync import fsync_folder, fsync_tree

FETCHES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A registry that is believed: where it is read, by which keys, and its current index."""

    source: Source
    trust: Trust
    index: Index


def connect(registry: str | None = None, *, trust: Path | str | None = None, now: datetime | None = None) -> Link:
    """Open a registry and believe its index, or refuse; `registry` defaults to `MEDGAN_REGISTRY` or the last one."""
    source = registries.open_source(_address(registry))
    pinned = trusts.recall(source.address, pin=Path(trust).expanduser() if trust is not None else None)
    index = indexes.fetch(source, pinned, now=now)
    trusts.remember_registry(source.address)
    return Link(source=source, trust=pinned, index=index)


def pull(
    spec: str,
    *,
    registry: str | None = None,
    trust: Path | str | None = None,
    cache: Path | None = None,
    destination: Path | None = None,
    allow_withdrawn: bool = False,
    offline: bool = False,
    now: datetime | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Pull `NAME[@VERSION]`, verify all of it, and return its folder (`<cache>/<name>/<version>`, or `destination`).

    `trust` names the registry's public key (PEM) at the first contact. A version that is here already is
    verified again and not fetched; one that another process is fetching is waited for. `offline` asks nobody: the
    highest version here that fits is verified against the pinned keys; whether it was withdrawn since cannot be known.
    Progress is in bytes.
    """
    if offline:
        return _found(spec, registry, cache or trusts.default_cache(), on_progress=on_progress)
    link = connect(registry, trust=trust, now=now)
    entry, version = indexes.choose(link.index, spec, allow_withdrawn=allow_withdrawn)
    keys = keys_due(link.trust.keys, version)
    folder = (destination or (cache or trusts.default_cache()) / entry.name / version.version).expanduser().absolute()
    if destination is not None:
        _refuse_used(folder)
    if not _stands(folder):
        with disk.locked(folder.parent / f".{folder.name}.lock"):
            if not _stands(folder):
                fetch(link.source, entry.name, version, keys=keys, folder=folder, on_progress=on_progress)
                return folder
    sign_again(link.source, entry.name, version, keys=keys, folder=folder)
    manifest = verify.verify_folder(
        folder, keys=keys, name=entry.name, version=version.version, on_progress=on_progress
    )
    refuse_other(folder, manifest, version)
    return folder


def _found(spec: str, registry: str | None, cache: Path, *, on_progress: Progress | None) -> Path:
    """The highest version in `cache` that fits `spec`, verified by the keys pinned for the registry."""
    name, wanted = indexes.parse_spec(spec)
    if wanted is not None and indexes.is_channel(wanted):
        raise InvalidRequest("what a channel means is in the registry's index: offline, name a version")
    here = [path for path in (cache / name).glob("*") if indexes.is_number(path.name) and path.is_dir()]
    fits = [path for path in here if wanted is None or f"{path.name}.".startswith(f"{wanted}.")]
    if not fits:
        raise InvalidRequest(f"no version of {name} that fits is here: pull it while the registry can be reached")
    keys = trusts.recall(registries.open_source(_address(registry)).address).keys
    folder = max(fits, key=lambda path: tuple(map(int, path.name.split("."))))
    verify.verify_folder(folder, keys=keys, name=name, version=folder.name, on_progress=on_progress)
    return folder


def _stands(folder: Path) -> bool:
    """Whether something lies at `folder`; an empty folder is as good as none."""
    with disk.explained():
        return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _refuse_used(folder: Path) -> None:
    """`InvalidRequest` when something that is no version lies at `folder`."""
    if _stands(folder) and not (folder / verify.MANIFEST).is_file():
        raise InvalidRequest("something else lies where the version should go: name a new folder, or an empty one")


def sign_again(source: Source, name: str, version: IndexVersion, *, keys: tuple[str, ...], folder: Path) -> None:
    """Bring the signatures of the version in `folder` again where one is due that had not been given at its pull."""
    held, signed = (verify.small_file(folder / file) for file in (verify.MANIFEST, verify.ENVELOPE))
    try:
        verify.read_manifest(held, signed, keys=keys, name=name, version=version.version)
    except IntegrityError:
        _, body, envelope = signed_manifest(source, name, version, keys=keys)
        beside = folder.with_name(f".{folder.name}.{verify.ENVELOPE}")  # nothing half-written lies in a version
        if held == body:
            with disk.locked(folder.with_name(f".{folder.name}.lock")), disk.explained():
                disk.write_file(beside, envelope)
                beside.replace(folder / verify.ENVELOPE)


def _address(registry: str | None) -> str:
    address = registry or os.environ.get("MEDGAN_REGISTRY") or trusts.last_registry()
    if address is None:
        raise InvalidRequest("no registry is known: name one with --registry ADDRESS (registry= in Python)")
    return str(address)


def keys_due(keys: tuple[str, ...], version: IndexVersion) -> tuple[str, ...]:
    """The pinned keys that must all have signed; refuses when the version needs more than are pinned."""
    if version.signatures > len(keys):
        raise IntegrityError(
            f"this version is due {version.signatures} signatures and {len(keys)} key is pinned: ask the publisher for "
            "the approver's public key and pin a file that holds both with --trust"
        )
    return keys


def fetch(
    source: Source,
    name: str,
    version: IndexVersion,
    *,
    keys: tuple[str, ...],
    folder: Path,
    on_progress: Progress | None = None,
) -> None:
    """Bring every file of a version to `folder`, verified against its signed manifest; visible only when whole."""
    staging = folder.parent / f".{folder.name}-{version.manifest_sha256[:16]}.partial"
    where = f"{name}/{version.version}"
    manifest, body, envelope = signed_manifest(source, name, version, keys=keys)
    done, total = 0, sum(file.size for file in manifest.files)
    with disk.explained():
        disk.drop_links(staging)
        staging.mkdir(parents=True, exist_ok=True)
        _adopt(staging, lazy_folder(folder.parent, version), manifest)
        _refuse_full(staging, total)
    line = _UntilHungUp(source)
    with ThreadPoolExecutor(FETCHES_AT_ONCE, thread_name_prefix="medgan-pull") as threads:
        fetches = {
            threads.submit(fetch_file, line, f"{where}/{file.path}", file, staging / file.path): file.size
            for file in manifest.files
        }
        try:
            for fetch in as_completed(fetches):
                fetch.result()
                done += fetches[fetch]
                if on_progress is not None:
                    on_progress(done, total)
        except BaseException:
            line.hung_up.set()
            threads.shutdown(cancel_futures=True)
            raise
    with disk.explained():
        (staging / verify.MANIFEST).write_bytes(body)
        (staging / verify.ENVELOPE).write_bytes(envelope)
        _drop_strangers(staging, manifest)
        fsync_tree(staging)
        staging.rename(folder)
        fsync_folder(folder.parent)


class _UntilHungUp:
    """A source that ends between two blocks once one file failed, or Ctrl-C came: nobody waits for whole shards."""

    def __init__(self, source: Source) -> None:
        self.address, self.hung_up = source.address, threading.Event()
        self._source = source

    def blocks(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        for block in self._source.blocks(path, offset=offset):
            if self.hung_up.is_set():
                raise StoreUnavailable("the pull was broken off: the same pull goes on from here")
            yield block


def signed_manifest(
    source: Source, name: str, version: IndexVersion, *, keys: tuple[str, ...]
) -> tuple[Manifest, bytes, bytes]:
    """The manifest that the index names and all `keys` signed, with its bytes and those of its envelope."""
    where = f"{name}/{version.version}"
    body = registries.read_all(source, f"{where}/{verify.MANIFEST}")
    if sha256_hex(body) != version.manifest_sha256:
        raise IntegrityError(f"{name}@{version.version}: the manifest is not the one that the signed index names")
    envelope = registries.read_all(source, f"{where}/{verify.ENVELOPE}")
    return verify.read_manifest(body, envelope, keys=keys, name=name, version=version.version), body, envelope


def lazy_folder(home: Path, version: IndexVersion) -> Path:
    """Where a version lies of which only what was touched is here."""
    return home / f".{version.version}-{version.manifest_sha256[:16]}.lazy"


def _adopt(staging: Path, lazy: Path, manifest: Manifest) -> None:
    """Take over what lazy reading brought; like all that lies in the staging folder it is verified before it counts."""
    for file in manifest.files:
        found, target = lazy / file.path, staging / file.path
        if found.is_file() and not found.is_symlink() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a file system without hard links: it comes again
                os.link(found, target)


def _refuse_full(staging: Path, total: int) -> None:
    """`InvalidRequest` when the disk cannot hold what is still missing of `total` bytes."""
    held = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    free = shutil.disk_usage(staging).free
    if total - held > free:
        raise InvalidRequest(
            f"{(total - held) / 1e9:.1f} GB are still to come and {free / 1e9:.1f} GB are free: make room, or name "
            "another folder with --to"
        )


def fetch_file(source: Source, path: str, file: ManifestFile, target: Path, *, partial: Path | None = None) -> None:
    """One file to `target`, verified; a whole one is kept, a broken-off one (`partial`) is continued."""
    with suppress(StoreUnavailable):  # a bad block: the file is fetched again
        if target.exists() and verify.digest_file(target) == (file.size, file.sha256):
            return
    partial = partial or target.with_name(target.name + ".part")
    with disk.explained():
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        hasher, held = _resume(partial, file.size)
    if held < file.size or file.size == 0:
        with disk.explained(), partial.open("ab") as sink:  # buffered: a raw write may be short, on a full disk it is
            for block in source.blocks(path, offset=held) if file.size else ():
                held += len(block)
                if held > file.size:
                    break
                hasher.update(block)
                sink.write(block)
    if held != file.size or hasher.hexdigest() != file.sha256:
        partial.unlink(missing_ok=True)
        raise IntegrityError(
            f"{path.rsplit('/', 1)[-1]} did not arrive as it was signed: pull again; if it stays so, ask the publisher"
        )
    with disk.explained():
        if partial.stat().st_size != file.size:
            raise StoreUnavailable("the disk did not keep all of a file: make room, then pull again")
        partial.replace(target)


def _resume(partial: Path, size: int) -> tuple[hashlib._Hash, int]:
    """Digest and length of what an earlier pull left of a file; what is too long is dropped."""
    hasher, held = hashlib.sha256(), 0
    if partial.exists() and partial.stat().st_size > size:
        partial.unlink()
    if partial.exists():
        with partial.open("rb", buffering=0) as found:
            while block := found.read(registries.BLOCK_BYTES):
                hasher.update(block)
                held += len(block)
    return hasher, held


def _drop_strangers(staging: Path, manifest: Manifest) -> None:
    """Delete what earlier pulls left and this version does not list."""
    listed = {file.path for file in manifest.files} | {verify.MANIFEST, verify.ENVELOPE}
    for path in sorted(staging.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                shutil.rmtree(path)
        elif path.relative_to(staging).as_posix() not in listed:
            path.unlink()


def refuse_other(folder: Path, manifest: Manifest, version: IndexVersion) -> None:
    """`IntegrityError` when the version in `folder` is signed, but not the one that the index names."""
    if sha256_hex((folder / verify.MANIFEST).read_bytes()) != version.manifest_sha256:
        raise IntegrityError(
            f"the copy of {manifest.name}@{manifest.version} here is not the one that the signed index names: "
            "delete it and pull again"
        )
