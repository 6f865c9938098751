"""A version read where it is published: small files at once, each shard when it is first touched, all verified.

What decides is the same signed manifest as for a pull. A shard comes whole, because the manifest signs whole shards
(a chunk's crc32c finds accidents, not forgers), is checked by SHA-256 before a pixel of it is decoded, and stays in
the cache; what does not agree is not kept and nothing of it is shown.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from medgan.client import agreement, disk, shards, verify
from medgan.client import index as indexes
from medgan.client import pull as pulls
from medgan.client import trust as trusts
from medgan.client.load import IMAGES, LABELS, Dataset
from medgan.client.registry import Source
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import ManifestFile

_PART = ".part"
_ABANDONED_SECONDS = 3600
"""What nobody wrote to for so long is a killed reader's: a line that stands still is given up in half a minute."""
_AT_ONCE = (LABELS, f"{IMAGES}/zarr.json", agreement.description(agreement.IMAGES))


def open_remote(
    spec: str,
    split: str | None = None,
    *,
    registry: str | None = None,
    trust: Path | str | None = None,
    cache: Path | None = None,
    allow_withdrawn: bool = False,
    now: datetime | None = None,
) -> RemoteDataset:
    """Open `NAME[@VERSION]` without pulling it; a version that was pulled before is read, and checked, from there."""
    link = pulls.connect(registry, trust=trust, now=now)
    entry, version = indexes.choose(link.index, spec, allow_withdrawn=allow_withdrawn)
    keys = pulls.keys_due(link.trust.keys, version)
    manifest, body, envelope = pulls.signed_manifest(link.source, entry.name, version, keys=keys)
    home = (cache or trusts.default_cache()).expanduser().absolute() / entry.name
    where = f"{entry.name}/{version.version}"
    pulled = home / version.version
    folder = pulled if pulled.is_dir() else pulls.lazy_folder(home, version)
    files = {file.path: file for file in manifest.files}
    if folder != pulled:
        with disk.explained():
            disk.drop_links(folder)
    masks = [agreement.description(agreement.MASKS)] if agreement.has_masks(manifest) else []
    for path in (*_AT_ONCE, *masks):
        if path not in files:
            raise IntegrityError(f"{entry.name}@{version.version} lacks a file that every version has: not believed")
        bring(link.source, where, files[path], folder, keep=folder == pulled)
    if folder != pulled:
        disk.sweep_stale(folder, f".*{_PART}", seconds=_ABANDONED_SECONDS)
        disk.write_file(folder / verify.MANIFEST, body)
        disk.write_file(folder / verify.ENVELOPE, envelope)
    pulls.refuse_other(folder, manifest, version)
    return RemoteDataset(folder, split, source=link.source, keep=folder == pulled)


def bring(source: Source, where: str, file: ManifestFile, folder: Path, *, keep: bool) -> None:
    """Have one verified file in `folder`: fetched where it is missing, unless the folder is one to `keep` as it is."""
    target = folder / file.path
    if not keep:
        partial = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}{_PART}")
        pulls.fetch_file(source, f"{where}/{file.path}", file, target, partial=partial)
    elif verify.digest_file(target) != (file.size, file.sha256):
        raise IntegrityError("the pulled copy of this version is damaged: delete it and pull again")


class RemoteDataset(Dataset):
    """A `Dataset` whose shards are fetched and verified when they are first touched."""

    def __init__(self, folder: Path, split: str | None = None, *, source: Source, keep: bool) -> None:
        """Read the version whose small files lie in `folder`; `keep` it unchanged when it was pulled whole."""
        super().__init__(folder, split)
        self._source, self._keep = source, keep

    def _open(self, name: str) -> RemoteReader:
        """See `RemoteReader`."""
        layout = shards.read_layout(self.folder / IMAGES / name)
        if layout is None:
            raise InvalidRequest("this version's arrays have another layout: pull it, and read them with zarr-python")
        files = {file.path: file for file in self.manifest.files if file.pixel_sha256}
        return RemoteReader(
            self.folder,
            layout,
            files,
            source=self._source,
            where=f"{self.name}/{self.version}",
            keep=self._keep,
            array=name,
        )

    def materialise(self) -> Dataset:
        """Refused: the uncompressed tier lies beside a pulled version."""
        raise InvalidRequest("a version is pulled before it is materialised: load it without lazy=True")


class RemoteReader(shards.ShardReader):
    """A reader that fetches and verifies each shard once a process, at the first touch; threads share one fetch."""

    def __init__(
        self,
        folder: Path,
        layout: shards.Layout,
        files: dict[str, ManifestFile],
        *,
        source: Source,
        where: str,
        keep: bool,
        array: str,
    ) -> None:
        """Read `array` in `folder`, whose shards are `files` of the signed manifest, from `where` in `source`."""
        super().__init__(folder / IMAGES / array, layout)
        about = {"folder": folder, "files": files, "source": source, "where": where, "keep": keep, "array": array}
        self._about: dict[str, Any] = about
        self._turns: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        """With what is needed to fetch."""
        return {"layout": self.layout, **self._about}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open again where we arrived."""
        self.__init__(**state)  # type: ignore[misc]

    def _shard(self, number: int) -> shards._Shard:
        found = self._shards.get(number)
        if found is not None:
            return found
        with self._turns[number]:
            if number not in self._shards:
                about = self._about
                file = about["files"].get(f"{IMAGES}/{about['array']}/{self.layout.shard_name(number)}")
                if file is None:
                    raise IntegrityError("the signed manifest names no such shard: this version is not believed")
                bring(about["source"], about["where"], file, about["folder"], keep=about["keep"])
            return super()._shard(number)
