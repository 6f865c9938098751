"""Images straight from shards: one index read, whole chunks decoded into the caller's buffer, every checksum checked.

Understands exactly the layout of a release (`docs/data-format.md`) and of its materialised twin:
`sharding_indexed` over axis 0, index at the end with crc32c, inner codecs `bytes` [, `blosc`, `crc32c`].
Anything else is left to zarr-python (`open_images` falls back). Legend: S rows a shard, C rows a chunk.
"""

from __future__ import annotations

import json
import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from medgan.errors import IntegrityError, InvalidRequest

_EMPTY = np.uint64(2**64 - 1)
_CRC_BYTES = 4
_BLOSC_HEADER = 16
_INDEX_ENTRY_BYTES = 16

Images = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What `zarr.json` says: (N, H, W) or (N, D, H, W), dtype, S, C, fill value, and whether chunks are compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard_rows: int
    chunk_rows: int
    fill_value: int
    compressed: bool
    attributes: dict[str, Any]

    @property
    def chunks(self) -> int:
        """Chunks that hold at least one row."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of one full chunk."""
        return self.chunk_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of one image."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def shard_name(self, number: int) -> str:
        """Path of shard `number` below the array: `c/7/0/0`."""
        return "/".join(("c", str(number), *["0"] * (len(self.shape) - 1)))


def open_images(path: Path) -> ShardReader | None:
    """A direct reader of the array folder `path`, or None when its layout is one for zarr-python."""
    layout = read_layout(path)
    return ShardReader(path, layout) if layout is not None else None


def read_layout(path: Path) -> Layout | None:
    """The layout in `path/zarr.json` when it is the one this module reads, else None."""
    try:
        body = (path / "zarr.json").read_bytes()
    except OSError:
        body = b""
    return parse_layout(body)


def parse_layout(body: bytes) -> Layout | None:
    """The layout in the text of a `zarr.json` when it is one this module reads, else None."""
    try:
        meta = json.loads(body)
    except (ValueError, RecursionError):
        raise IntegrityError("the array's description cannot be read: pull the version again") from None
    try:
        return _parse(meta)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError):  # any JSON may stand there
        return None


class ShardReader:
    """Random and sequential access to (N, H, W) images; safe to pickle, fork and share between threads."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Read the array in folder `path`; files are opened when first needed."""
        self.path = path
        self.layout = layout
        self.shape, self.dtype = layout.shape, layout.dtype
        self._shards: dict[int, _Shard] = {}
        self._maps: dict[int, memoryview] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Only what can travel: open files stay behind."""
        return {"path": self.path, "layout": self.layout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open again where we arrived."""
        self.__init__(state["path"], state["layout"])  # type: ignore[misc]

    def __len__(self) -> int:
        """Images."""
        return self.shape[0]

    def rows_of(self, chunk: int) -> int:
        """Rows that chunk number `chunk` of the array holds; fewer in the last one."""
        return min(self.layout.chunk_rows, self.shape[0] - chunk * self.layout.chunk_rows)

    def chunk_into(self, chunk: int, out_CHW: Images) -> int:
        """Decode chunk number `chunk` of the array into `out_CHW` (C, H, W), contiguous; gives its valid rows.

        `IntegrityError` when its checksum or size is wrong.
        """
        per_shard = self.layout.shard_rows // self.layout.chunk_rows
        number, inside = divmod(chunk, per_shard)
        self._shard(number).chunk_into(inside, out_CHW)
        return self.rows_of(chunk)

    def gather(self, rows: Sequence[int] | npt.NDArray[np.int64], out_BHW: Images | None = None) -> Images:
        """Images at `rows` in that order, (B, H, W); each chunk is decoded once. `InvalidRequest` outside 0..N-1."""
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.shape[0]):
            raise InvalidRequest(f"rows go from 0 to {self.shape[0] - 1}")
        out = np.empty((len(wanted), *self.shape[1:]), self.dtype) if out_BHW is None else out_BHW
        if not self.layout.compressed:
            self._copy_mapped(wanted, out)
            return out
        scratch = np.empty((self.layout.chunk_rows, *self.shape[1:]), self.dtype)
        chunk_of = wanted // self.layout.chunk_rows
        for chunk in np.unique(chunk_of):
            places = np.flatnonzero(chunk_of == chunk)
            self.chunk_into(int(chunk), scratch)
            out[places] = scratch[wanted[places] - chunk * self.layout.chunk_rows]
        return out

    def _copy_mapped(self, wanted: npt.NDArray[np.int64], out_BHW: Images) -> None:
        """Rows by slices of bytes: indexing an array costs four times as much a row (0.4 against 0.1 us)."""
        if not wanted.size:
            return
        size, row_bytes, maps = self.layout.shard_rows, self.layout.row_bytes, self._maps
        staged = out_BHW if out_BHW.flags.c_contiguous else np.empty(out_BHW.shape, out_BHW.dtype)
        target, at = staged.data.cast("B"), 0
        for row in wanted.tolist():
            number, inside = divmod(row, size)
            rows = maps.get(number)
            if rows is None:
                rows = maps[number] = self._shard(number).raw.data.cast("B")
            target[at : at + row_bytes] = rows[inside * row_bytes : (inside + 1) * row_bytes]
            at += row_bytes
        if staged is not out_BHW:
            out_BHW[...] = staged

    def read(self) -> Images:
        """All images (N, H, W)."""
        count, rows = self.shape[0], self.layout.chunk_rows
        out = np.empty(self.shape, self.dtype)
        for chunk in range(count // rows):
            self.chunk_into(chunk, out[chunk * rows : (chunk + 1) * rows])
        if rest := count % rows:
            scratch = np.empty((rows, *self.shape[1:]), self.dtype)
            self.chunk_into(count // rows, scratch)
            out[count - rest :] = scratch[:rest]
        return out

    def hint(self, shard: int) -> None:
        """Tell the kernel that shard `shard` is wanted soon."""
        if shard * self.layout.shard_rows < self.shape[0]:
            self._shard(shard).hint()

    def _shard(self, number: int) -> _Shard:
        found = self._shards.get(number)
        if found is None:
            found = self._shards[number] = _Shard(self.path / self.layout.shard_name(number), self.layout)
        return found


class _Shard:
    """One open shard file; the descriptor closes with the object."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise IntegrityError("a shard of the array is missing: pull the version again") from None
        weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size
        self.index = self._read_index()
        self.raw: Images = np.empty(0) if layout.compressed else self._map()

    def hint(self) -> None:
        if hasattr(os, "posix_fadvise"):  # macOS has none
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_WILLNEED)

    def chunk_into(self, inside: int, out_CHW: Images) -> None:
        offset, length = (int(value) for value in self.index[inside])
        if offset == _EMPTY and length == _EMPTY:
            out_CHW[...] = self.layout.fill_value
            return
        if not self.layout.compressed:
            rows = self.layout.chunk_rows
            out_CHW[...] = self.raw[inside * rows : (inside + 1) * rows]
            return
        body = os.pread(self._descriptor, length, offset)
        if len(body) != length or length < _BLOSC_HEADER + _CRC_BYTES:
            raise _damaged()
        packed = np.frombuffer(body, np.uint8)[:-_CRC_BYTES]
        if google_crc32c.value(packed) != int.from_bytes(body[-_CRC_BYTES:], "little"):
            raise _damaged()
        if int.from_bytes(body[4:8], "little") != self.layout.chunk_bytes:  # blosc header: decoded size
            raise _damaged()
        try:
            blosc.decompress(packed, out_CHW)
        except (RuntimeError, ValueError):
            raise _damaged() from None

    def _read_index(self) -> npt.NDArray[np.uint64]:
        """(chunks a shard, 2) offset and length in bytes; checked against its own crc32c."""
        entries = self.layout.shard_rows // self.layout.chunk_rows
        size = entries * _INDEX_ENTRY_BYTES + _CRC_BYTES
        tail = os.pread(self._descriptor, size, max(0, self._size - size))
        if len(tail) != size or google_crc32c.value(tail[:-_CRC_BYTES]) != int.from_bytes(tail[-_CRC_BYTES:], "little"):
            raise _damaged()
        index = np.frombuffer(tail, "<u8", count=2 * entries).reshape(entries, 2)
        inside = index[~(index == _EMPTY).all(1)]
        limit = np.uint64(self._size - size)
        if ((inside > limit) | (inside[:, ::-1] > limit - np.minimum(inside, limit))).any():
            raise _damaged()
        return index

    def _map(self) -> Images:
        """Rows of an uncompressed shard as one read-only map; `IntegrityError` unless its chunks are contiguous."""
        layout = self.layout
        used = self.index[self.index[:, 0] != _EMPTY]
        start = int(used[0, 0]) if len(used) else 0
        steps = np.arange(len(used), dtype=np.uint64) * np.uint64(layout.chunk_bytes) + np.uint64(start)
        if not len(used) or (used[:, 0] != steps).any() or (used[:, 1] != layout.chunk_bytes).any():
            raise IntegrityError("a materialised shard is not contiguous: materialise the version again")
        mapped = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        rows = len(used) * layout.chunk_rows
        flat = np.frombuffer(mapped, layout.dtype, count=rows * prod(layout.shape[1:]), offset=start)
        return flat.reshape(rows, *layout.shape[1:])


def _damaged() -> IntegrityError:
    return IntegrityError("a shard is damaged (checksum): delete the copy and pull the version again")


def _parse(meta: dict[str, Any]) -> Layout | None:
    outer = meta["codecs"]
    if meta["zarr_format"] != 3 or len(outer) != 1 or outer[0]["name"] != "sharding_indexed":  # noqa: PLR2004 - v3
        return None
    sharding = outer[0]["configuration"]
    inner = [codec["name"] for codec in sharding["codecs"]]
    shape, shard = tuple(meta["shape"]), meta["chunk_grid"]["configuration"]["chunk_shape"]
    chunk, dtype = sharding["chunk_shape"], np.dtype(meta["data_type"]).newbyteorder("<")
    fill = int(meta["fill_value"])
    known = (
        inner in (["bytes"], ["bytes", "blosc", "crc32c"])
        and [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        and sharding.get("index_location", "end") == "end"
        and meta["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and all(_little(codec) for codec in (*sharding["codecs"], *sharding["index_codecs"]))
        and len(shape) in (3, 4)
        and dtype.kind in "iu"
        and np.iinfo(dtype).min <= fill <= np.iinfo(dtype).max
        and all(type(size) is int and size > 0 for size in (*shape, *shard, *chunk))
        and tuple(shard[1:]) == shape[1:] == tuple(chunk[1:])
        and shard[0] % chunk[0] == 0
    )
    if not known:
        return None
    return Layout(
        shape=shape,
        dtype=dtype,
        shard_rows=shard[0],
        chunk_rows=chunk[0],
        fill_value=fill,
        compressed=len(inner) > 1,
        attributes=dict(meta.get("attributes", {})),
    )


def _little(codec: dict[str, Any]) -> bool:
    return bool(codec["name"] != "bytes" or codec.get("configuration", {}).get("endian", "little") == "little")
