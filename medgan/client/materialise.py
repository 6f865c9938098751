"""The fast tier: the same images without compression, written once, mapped into memory from then on.

zarr-python writes the codec `bytes` alone, so each shard is one contiguous run of rows. What was written is
checked against the signed manifest (`pixel_sha256` of every shard) before the tier appears, and a crc32c a
shard is kept beside it, so that bits that flip later are found when a shard is first touched. A tier that somebody
else wrote, may write or may put another in the place of is compared with the manifest again instead: whoever forges
pixels forges a checksum too. Who may is asked once, when a process opens the tier. A tier that was found damaged loses
its checksums, is not read from then on, and is written anew by the next `materialise`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from medgan.client import agreement, disk, shards
from medgan.client.agreement import GROUP, IMAGES, MASKS, has_masks
from medgan.client.verify import MANIFEST, Progress
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Manifest, canonical_json, sha256_hex
from medgan.sync import fsync_folder, fsync_tree

if TYPE_CHECKING:
    import zarr

CHECKS = "checks.json"
_CHECKS_OF = {IMAGES: "crc32c", MASKS: "masks_crc32c"}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def place(folder: Path) -> Path:
    """Where the fast tier of the version in `folder` lies: beside it, because the version itself never changes."""
    return folder.parent / f".{folder.name}.materialised"


def materialise(folder: Path, *, on_progress: Progress | None = None) -> Path:
    """Write the fast tier of the pulled version in `folder`, or find it; gives its folder. Progress is in images.

    Masks are a part of it.

    One that was found damaged, has another shape, or that others may write is written anew. What others wrote, and
    what lies where nobody's right to write can be taken away, stays: readers compare it with what was signed.
    `InvalidRequest` when the disk has no room for it (it needs the decoded size).
    """
    import zarr

    target = place(folder)
    body = (folder / MANIFEST).read_bytes()
    manifest = Manifest.model_validate_json(body)
    names = (IMAGES, MASKS) if has_masks(manifest) else (IMAGES,)
    whole = all(_layout(folder, body, name) is not None for name in names)
    if whole and (_ours(target) or not _can_be_ours(target)):
        return target
    readers = {name: shards.open_images(folder / GROUP / name) for name in names}
    found = {name: reader for name, reader in readers.items() if reader is not None}
    if len(found) < len(readers):
        raise InvalidRequest("this version's arrays have another layout: read them with zarr-python")
    agreement.layout(found[IMAGES].layout, manifest)
    if MASKS in found:
        agreement.masks(found[MASKS].layout, found[IMAGES].layout, manifest)
    needed = sum(reader.shape[0] * reader.layout.row_bytes for reader in found.values())
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InvalidRequest(f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: make room first")
    with disk.locked(
        folder.parent / f".{folder.name}.lock", busy="this version is in use by another process: wait for it"
    ):
        staging = target.with_name(target.name + ".partial")
        with disk.explained():
            disk.drop_links(staging)
            shutil.rmtree(staging, ignore_errors=True)
            group = zarr.create_group(staging / GROUP, zarr_format=3)
            checks = {
                _CHECKS_OF[name]: _write(group, name, reader, manifest, on_progress if name == IMAGES else None)
                for name, reader in found.items()
            }
            (staging / CHECKS).write_bytes(canonical_json({"manifest_sha256": sha256_hex(body), **checks}))
            for path in _below(staging):
                path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~_OTHERS_WRITE)
            fsync_tree(staging)
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
            fsync_folder(target.parent)
    return target


def open_materialised(folder: Path, name: str = IMAGES) -> shards.ShardReader | None:
    """A memory-mapping reader of array `name` in the fast tier of the version in `folder`; None without such a tier."""
    target = place(folder)
    body = (folder / MANIFEST).read_bytes()
    layout = _layout(folder, body, name)
    if layout is None:
        return None
    if _ours(target) and _stays(target):
        checks = json.loads((target / CHECKS).read_bytes())[_CHECKS_OF[name]]
    else:
        signed = _signed_pixels(Manifest.model_validate_json(body))
        numbers = range(-(-layout.shape[0] // layout.shard_rows))
        checks = [signed.get(f"{GROUP}/{name}/{layout.shard_name(number)}", "") for number in numbers]
    return CheckedReader(target / GROUP / name, layout, checks)


class CheckedReader(shards.ShardReader):
    """A reader that checks each mapped shard against the crc32c of its day, once, at the first touch."""

    def __init__(self, path: Path, layout: shards.Layout, checks: Sequence[int | str]) -> None:
        """Read `path`; `checks[s]` is the crc32c (int) or the hex SHA-256 of the used rows of shard s."""
        super().__init__(path, layout)
        self._checks = checks

    def __getstate__(self) -> dict[str, Any]:
        """With the checks."""
        return super().__getstate__() | {"checks": self._checks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open again where we arrived."""
        self.__init__(state["path"], state["layout"], state["checks"])  # type: ignore[misc]

    def _shard(self, number: int) -> shards._Shard:
        found = self._shards.get(number)
        if found is None:
            try:
                found = self._checked(number)
            except IntegrityError:
                with suppress(OSError):  # without its checksums the tier is nobody's: `materialise` writes it anew
                    (self.path.parents[1] / CHECKS).unlink()
                self._shards.pop(number, None)
                raise IntegrityError("a materialised shard is damaged: materialise the version again") from None
        return found

    def _checked(self, number: int) -> shards._Shard:
        found = super()._shard(number)
        start = number * self.layout.shard_rows
        used = found.raw[: self.shape[0] - start].view(np.uint8).reshape(-1)
        expected = self._checks[number]
        said = google_crc32c.value(used) if isinstance(expected, int) else hashlib.sha256(used.data).hexdigest()
        if said != expected:
            raise IntegrityError("a materialised shard holds other bytes")
        return found


def _write(
    group: zarr.Group, name: str, reader: shards.ShardReader, manifest: Manifest, on_progress: Progress | None
) -> list[int]:
    """Write all shards of an array; gives the crc32c of each one's rows, after its pixels agreed with the manifest."""
    expected = _signed_pixels(manifest)
    layout = reader.layout
    array = group.create_array(
        name,
        shape=layout.shape,
        dtype=layout.dtype,
        chunks=(layout.chunk_rows, *layout.shape[1:]),
        shards=(layout.shard_rows, *layout.shape[1:]),
        compressors=None,
        fill_value=layout.fill_value,
        attributes=layout.attributes,
        config={"write_empty_chunks": True},
    )
    checks = []
    for number, start in enumerate(range(0, layout.shape[0], layout.shard_rows)):
        rows = np.arange(start, min(start + layout.shard_rows, layout.shape[0]))
        block = np.ascontiguousarray(reader.gather(rows))
        plain = block.view(np.uint8).reshape(-1)
        if hashlib.sha256(plain.data).hexdigest() != expected.get(f"{GROUP}/{name}/{layout.shard_name(number)}"):
            raise IntegrityError("the decoded images are not the ones that were signed: pull the version again")
        array[start : start + len(rows)] = block
        plain.flags.writeable = False
        checks.append(int(google_crc32c.value(plain)))
        if on_progress is not None:
            on_progress(start + len(rows), layout.shape[0])
    return checks


def _signed_pixels(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.pixel_sha256 for file in manifest.files if file.pixel_sha256}


def _kind(layout: shards.Layout) -> tuple[object, ...]:
    """What makes the same bytes the same images."""
    return layout.shape, layout.dtype, layout.shard_rows, layout.attributes


def _can_be_ours(target: Path) -> bool:
    """Whether it belongs to this user, on a file system that keeps modes (CIFS, FAT and some FUSE do not)."""
    found = target.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        return False
    target.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)
    return target.lstat().st_mode & _OTHERS_WRITE == 0


def _ours(target: Path) -> bool:
    """Whether all that lies at and below `target` is ours (or root's) and nobody else may write it."""
    owners = {os.geteuid(), 0}
    found = [path.lstat() for path in _below(target)]
    return all(
        one.st_uid in owners and not stat.S_ISLNK(one.st_mode) and not one.st_mode & _OTHERS_WRITE for one in found
    )


def _stays(target: Path) -> bool:
    """Whether nobody else may rename `target`, or a folder above it, and put another in its place."""
    owners = {os.geteuid(), 0}
    above = [folder.stat() for folder in target.resolve().parents]
    return all(
        one.st_uid in owners and (not one.st_mode & _OTHERS_WRITE or one.st_mode & stat.S_ISVTX) for one in above
    )


def _below(target: Path) -> list[Path]:
    """`target` and all that lies below it."""
    return [target, *(Path(place) / name for place, folders, names in os.walk(target) for name in folders + names)]


def _layout(folder: Path, body: bytes, name: str) -> shards.Layout | None:
    """Layout of array `name` of the version's tier; None unless it was written for this manifest, of the same kind."""
    target = place(folder)
    try:
        held = json.loads((target / CHECKS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(held, dict) or held.get("manifest_sha256") != sha256_hex(body) or _CHECKS_OF[name] not in held:
        return None
    published = shards.read_layout(folder / GROUP / name)
    try:
        layout = shards.read_layout(target / GROUP / name)
    except IntegrityError:
        return None
    if layout is None or layout.compressed or published is None or _kind(layout) != _kind(published):
        return None
    return layout
