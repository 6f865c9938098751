"""Folders, zips and tars, looked through without unpacking and without trusting a name in them.

A source is a sequence of *leaves*: byte ranges of files, stored or deflated, that may hold an
instance or a table of labels. No path is ever built from a name inside an archive; a name is only
judged. An archive that tries to climb out, to explode or to hide one member behind another is
refused as a whole (`UnusableArchive`). What needs a seek and cannot give one (a compressed tar, an
archive inside an archive) is unpacked once into the spool of the identified zone, named by digest.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from medgan.archive import limits
from medgan.archive.storage import spool_file
from medgan.errors import BadInstance, StoreUnavailable, UnusableArchive
from medgan.records import QuarantineReason as Reason

_STORED: Final = 0
_DEFLATED: Final = 8
_READ_BYTES: Final = 1 << 20
_ZIP_MAGIC: Final = b"PK\x03\x04"
_MAGICS: Final = (
    (_ZIP_MAGIC, "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
_LOCAL_HEADER: Final = struct.Struct("<4s2B4HL2L2H")
_END_RECORD: Final = struct.Struct("<4s4H2LH")
_ENCRYPTED: Final = 0x1
_NO_FILE: Final = frozenset((errno.ELOOP, errno.ENXIO, errno.ENODEV))  # a link, a socket, a device
_SNIFF_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of one leaf lie: `stored` bytes of `path` from `offset`, giving `size` bytes."""

    path: str = field(repr=False)
    offset: int
    stored: int
    method: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One file of a source: its extent, or why it cannot be read. `name` is for judging, never for use."""

    name: str = field(repr=False)
    extent: Extent | None
    refusal: Reason | None = None


def leaves(root: Path, *, spool: Path | None) -> Iterator[Leaf]:
    """Every leaf of a folder, archive or single file, in a stable order; see `leaves_of`."""
    for path in files(root):
        yield from leaves_of(path, spool=spool, alone=path == root)


def files(root: Path, *, most: int = limits.MAX_MEMBERS) -> Iterator[Path]:
    """`root` itself, or every entry of its tree that is no folder, depth first in name order; nothing is followed.

    A folder that nobody let us list (`lost+found`) is given like a file, see `is_folder`. Raises `UnusableArchive` for
    a tree of more than `most` entries and where `root` may not be listed, `StoreUnavailable` where a folder cannot be
    listed for any other reason: a mount that fails is no small archive.
    """
    if root.is_dir():
        yield from _folder(root, most)
    else:
        yield root


def leaves_of(path: Path, *, spool: Path | None, alone: bool) -> Iterator[Leaf]:
    """Leaves of one file: itself, or the members of the archive that it is.

    With `spool` None nothing is written and archives inside archives are given as leaves.
    Raises `UnusableArchive` for a broken or hostile archive that is the source (`alone`); one that lies
    in a folder among other files is a single refused leaf instead.
    """
    if alone:
        yield from _file(path, spool, level=0)
        return
    if is_folder(path):
        yield Leaf(name=str(path), extent=None, refusal=Reason.UNREADABLE_FOLDER)
        return
    try:
        found = list(_file(path, spool, level=0))
    except UnusableArchive:
        found = [Leaf(name=str(path), extent=None, refusal=Reason.BAD_ARCHIVE)]
    yield from found


def is_folder(path: Path) -> bool:
    """Whether what `files` gave is a folder that it could not list."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def stamp_of(path: Path) -> tuple[int, int, int, int] | None:
    """What changes when a regular file does: size, mtime, ctime, inode; None for anything else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def read_extent(extent: Extent, *, expected_sha256: str | None = None) -> bytes:
    """Bytes of a leaf: regular files only, never through a link, capped, compared with its digest.

    Raises `BadInstance` with NOT_REGULAR_FILE, TOO_LARGE, CHANGED_WHILE_READ or BAD_ARCHIVE.
    """
    if max(extent.size, extent.stored) > limits.MAX_INSTANCE_BYTES:
        raise BadInstance(Reason.TOO_LARGE)
    with open_regular(extent.path) as file:
        try:
            before = os.fstat(file.fileno())
            file.seek(extent.offset)
            raw = file.read(extent.stored)
            after = os.fstat(file.fileno())
        except OSError:  # a bad block: the next run tries again
            raise BadInstance(Reason.CHANGED_WHILE_READ) from None
    if len(raw) != extent.stored or _stamp(before) != _stamp(after):
        raise BadInstance(Reason.CHANGED_WHILE_READ)
    data = raw if extent.method == _STORED else _inflate_member(raw, extent.size)
    if expected_sha256 is not None and hashlib.sha256(data).hexdigest() != expected_sha256:
        raise BadInstance(Reason.CHANGED_WHILE_READ)
    return data


def head(extent: Extent, size: int) -> bytes:
    """The first `size` bytes of a leaf, or fewer; empty where it does not unpack."""
    with open_regular(extent.path) as file:
        file.seek(extent.offset)
        raw = file.read(min(extent.stored, 2 * size))
    if extent.method == _STORED:
        return raw[:size]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, size)
    except zlib.error:
        return b""


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading; a link, FIFO or device is refused without being followed.

    Raises `BadInstance` NOT_REGULAR_FILE, or CHANGED_WHILE_READ where it cannot be opened now and perhaps later.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        never = error.errno in _NO_FILE
        raise BadInstance(Reason.NOT_REGULAR_FILE if never else Reason.CHANGED_WHILE_READ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInstance(Reason.NOT_REGULAR_FILE)
    return os.fdopen(descriptor, "rb")


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _inflate_member(raw: bytes, size: int) -> bytes:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = machine.decompress(raw, size + 1)
    except zlib.error:
        raise BadInstance(Reason.BAD_ARCHIVE) from None
    if len(data) != size:
        raise BadInstance(Reason.BAD_ARCHIVE)
    return data


def _folder(root: Path, most: int) -> Iterator[Path]:
    pending: list[tuple[Path, int]] = [(root, 0)]
    seen = 0
    while pending:
        folder, depth = pending.pop()
        try:
            entries = sorted((one.name, one.path, one.is_dir(follow_symlinks=False)) for one in os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue  # let go of since its parent was listed
        except OSError as failed:
            if not isinstance(failed, PermissionError) and failed.errno != errno.ENAMETOOLONG:
                message = "a folder of the source did not answer: check its disk or mount, then run again"
                raise StoreUnavailable(message) from None
            if depth:
                yield Path(folder)
                continue
            message = "the folder of the source cannot be listed: check its permissions"
            raise UnusableArchive(message) from None
        folders: list[tuple[Path, int]] = []
        for _, place, holds_more in entries:
            seen += 1
            if seen > most:
                message = f"the folder holds more than {most:,} entries: register it in parts"
                raise UnusableArchive(message)
            if not holds_more:
                yield Path(place)
            elif depth >= limits.MAX_FOLDER_DEPTH:
                message = f"the folder is nested deeper than {limits.MAX_FOLDER_DEPTH} levels"
                raise UnusableArchive(message)
            else:
                folders.append((Path(place), depth + 1))
        pending.extend(reversed(folders))


def _file(path: Path, spool: Path | None, *, level: int, name: str = "") -> Iterator[Leaf]:
    """Leaves of one file; `name` is what it is called where it was unpacked from."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            kind = archive_kind(file.read(_SNIFF_BYTES))
            if kind == "zip":
                yield from _zip(path, file, spool, level)
                return
            if kind == "tar":
                yield from _tar(path, file, spool, level)
                return
            if kind is not None:
                if spool is None:
                    yield from _peek_tar(file, kind)
                    return
                unpacked = _spool_stream(_decompressed(file, kind), spool, packed_bytes=size)
                yield from _file(unpacked, spool, level=level, name=name or str(path))
                return
    except BadInstance as refused:
        yield Leaf(name=name or str(path), extent=None, refusal=Reason(refused.reason))
        return
    except OSError:  # a bad block: the next run tries again
        yield Leaf(name=name or str(path), extent=None, refusal=Reason.CHANGED_WHILE_READ)
        return
    yield Leaf(name=name or str(path), extent=Extent(str(path), 0, size, _STORED, size))


def archive_kind(head: bytes) -> str | None:
    """`zip`, `tar`, `gz`, `bz2`, `xz` or `zst` by magic; None for anything else, DICOM first of all."""
    if head[128:132] == b"DICM":
        return None
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), None)


# ---------------------------------------------------------------------------------------------- zip


def _zip(path: Path, file: IO[bytes], spool: Path | None, level: int) -> Iterator[Leaf]:
    members = _zip_members(file)
    for member in members:
        if member.is_dir():
            continue
        extent = _zip_extent(path, file, member)
        yield from _member(member.filename, extent, spool, level)


def _zip_members(file: IO[bytes]) -> list[zipfile.ZipInfo]:
    """The central directory, refused as a whole for one hostile entry."""
    _refuse_crowd(file)
    try:
        members = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error):
        message = "the zip archive is broken: its directory cannot be read. Was it copied completely?"
        raise UnusableArchive(message) from None
    for member in members:
        judge_name(member.filename)
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
            _refuse("holds a link or device")
        if member.flag_bits & _ENCRYPTED:
            _refuse("is encrypted")
        if not member.is_dir() and member.compress_type not in {_STORED, _DEFLATED}:
            _refuse("uses a compression other than deflate: pack it again")
    files = [member for member in members if not member.is_dir()]
    judge_sizes(
        unpacked=sum(member.file_size for member in files),
        packed=sum(member.compress_size for member in files),
    )
    reach = -1
    for member in sorted(files, key=lambda member: member.header_offset):
        if member.header_offset < reach:  # overlapping members: a bomb that defeats the ratio
            _refuse("holds members that overlap")
        reach = member.header_offset + _LOCAL_HEADER.size + member.compress_size
    return members


def _refuse_crowd(file: IO[bytes]) -> None:
    """Read the end record first, so that a million entries are refused before they are listed."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - _END_RECORD.size))
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END_RECORD.size:
        message = "the zip archive is broken: its end is missing. Was it copied completely?"
        raise UnusableArchive(message)
    directory_bytes = _END_RECORD.unpack_from(tail, found)[5]
    wide = tail.rfind(b"PK\x06\x06", 0, found)
    if wide >= 0 and len(tail) - wide >= 48:  # noqa: PLR2004 - zip64 end record up to the directory's size
        directory_bytes = struct.unpack_from("<Q", tail, wide + 40)[0]
    if directory_bytes // 46 > limits.MAX_MEMBERS:  # 46 bytes is the shortest directory entry
        _refuse(f"lists more than {limits.MAX_MEMBERS:,} members")


def _zip_extent(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> Extent:
    size = os.fstat(file.fileno()).st_size
    file.seek(min(max(0, member.header_offset), size))
    raw = file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size, b"\0")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(raw)
    offset = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    if not raw.startswith(_ZIP_MAGIC) or not 0 <= member.header_offset < offset + member.compress_size <= size:
        message = "the zip archive is broken: a member is missing. Was it copied completely?"
        raise UnusableArchive(message)
    return Extent(str(path), offset, member.compress_size, member.compress_type, member.file_size)


# ---------------------------------------------------------------------------------------------- tar


def _tar(path: Path, file: IO[bytes], spool: Path | None, level: int) -> Iterator[Leaf]:
    file.seek(0)
    try:
        headers = _Headers(file)
        with tarfile.open(fileobj=headers, mode="r:") as archive:  # type: ignore[call-overload]
            members = list(_tar_members(archive, headers))
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError):  # all seen of hostile headers
        message = "the tar archive is broken. Was it copied completely?"
        raise UnusableArchive(message) from None
    size = os.fstat(file.fileno()).st_size
    for member in members:
        if member.offset_data + member.size > size:
            message = "the tar archive is broken: it ends within a member. Was it copied completely?"
            raise UnusableArchive(message)
        extent = Extent(str(path), member.offset_data, member.size, _STORED, member.size)
        yield from _member(member.name, extent, spool, level)


class _Headers:
    """A tar as `tarfile` reads it to list it: what one member says of itself may not take more than its budget."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, limits.MAX_TAR_HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes; `ReadError` where a header claims more than all of a member's may have."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise tarfile.ReadError
        return self._file.read(size)

    def next_member(self) -> None:
        """Begin a new budget."""
        self._left = limits.MAX_TAR_HEADER_BYTES


def _tar_members(archive: tarfile.TarFile, headers: _Headers) -> Iterator[tarfile.TarInfo]:
    """Regular members; a link, device, sparse file, climbing name or size below 0 refuses the archive."""
    count = 0
    for member in archive:
        count += 1
        headers.next_member()
        if count > limits.MAX_MEMBERS:
            _refuse(f"lists more than {limits.MAX_MEMBERS:,} members")
        judge_name(member.name)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse() or member.size < 0:
            _refuse("holds a link, a device or a sparse file")
        yield member


def _decompressed(file: IO[bytes], kind: str) -> IO[bytes]:
    file.seek(0)
    if kind == "gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if kind == "bz2":
        return bz2.BZ2File(file)
    if kind == "xz":
        return lzma.LZMAFile(file)
    import pyarrow as pa

    stream: IO[bytes] = pa.CompressedInputStream(file, "zstd")
    return stream


def _peek_tar(file: IO[bytes], kind: str) -> Iterator[Leaf]:
    """Say that a compressed file is one leaf, without unpacking it (for `preflight`)."""
    size = os.fstat(file.fileno()).st_size
    try:
        head = _decompressed(file, kind).read(_SNIFF_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        message = "the compressed archive is broken. Was it copied completely?"
        raise UnusableArchive(message) from None
    nested = archive_kind(head) is not None
    yield Leaf(name="packed.tar" if nested else "packed", extent=Extent("", 0, size, _STORED, size))


# --------------------------------------------------------------------------------- members and spool


def _member(name: str, extent: Extent, spool: Path | None, level: int) -> Iterator[Leaf]:
    """One member of an archive: a leaf, or one level of nesting that is spooled and looked through."""
    kind = archive_kind(head(extent, _SNIFF_BYTES))
    if kind is None or spool is None:
        yield Leaf(name=name, extent=extent)
        return
    if level >= limits.MAX_NESTED_ARCHIVES:
        _refuse(f"nests archives deeper than {limits.MAX_NESTED_ARCHIVES} level")
    inner = _spool_stream(_member_stream(extent), spool, packed_bytes=extent.stored)
    yield from _file(inner, spool, level=level + 1, name=name)


def _member_stream(extent: Extent) -> IO[bytes]:
    file = open_regular(extent.path)
    file.seek(extent.offset)
    stored = _Window(file, extent.stored)
    return io.BufferedReader(stored if extent.method == _STORED else _Inflated(stored))


class _Window(io.RawIOBase):
    """The next `size` bytes of a file, which it closes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__()
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Inflated(io.RawIOBase):
    """A raw deflate stream, inflated as it is read; it closes what it reads from."""

    def __init__(self, source: io.RawIOBase) -> None:
        super().__init__()
        self._source, self._machine = source, zlib.decompressobj(-zlib.MAX_WBITS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._machine.eof:
            packed = self._machine.unconsumed_tail or self._source.read(_READ_BYTES)
            if not packed:
                raise EOFError
            data = self._machine.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def close(self) -> None:
        self._source.close()
        super().close()


def _spool_stream(stream: IO[bytes], spool: Path, *, packed_bytes: int) -> Path:
    """Copy a decompressed stream into the spool under its digest, within the archive caps."""

    def read() -> bytes:
        try:
            return stream.read(_READ_BYTES)
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            message = "the compressed archive is broken. Was it copied completely?"
            raise UnusableArchive(message) from None

    def chunks() -> Iterator[bytes]:
        total = 0
        while chunk := read():
            total += len(chunk)
            judge_sizes(unpacked=total, packed=packed_bytes)
            if total > limits.MAX_NESTED_BYTES:
                _refuse(f"unpacks to more than {limits.MAX_NESTED_BYTES // limits.GIB} GiB")
            yield chunk

    with stream:
        return spool_file(spool, chunks())


# ----------------------------------------------------------------------------------------- judgement


def judge_name(name: str) -> None:
    """Refuse the archive for a name that is absolute, climbs, or hides control characters."""
    slashed = name.replace("\\", "/")
    parts = slashed.split("/")
    absolute = slashed.startswith("/") or (len(slashed) > 1 and slashed[1] == ":")
    if absolute or ".." in parts:
        _refuse("holds a name that points outside of it")
    if not name or "\0" in name or len(name.encode("utf-8", "replace")) > limits.MAX_MEMBER_NAME_BYTES:
        _refuse("holds a malformed name")


def judge_sizes(*, unpacked: int, packed: int) -> None:
    """Refuse the archive that unpacks to 200 times its size (beyond a floor), or past the cap."""
    if unpacked > limits.MAX_ARCHIVE_BYTES:
        _refuse(f"unpacks to more than {limits.MAX_ARCHIVE_BYTES >> 40} TiB")
    if unpacked > limits.ARCHIVE_RATIO_FLOOR_BYTES and unpacked > limits.MAX_ARCHIVE_RATIO * max(packed, 1):
        _refuse(f"unpacks to more than {limits.MAX_ARCHIVE_RATIO} times its size")


def _refuse(why: str) -> None:
    message = f"the archive {why}: it was refused as a whole"
    raise UnusableArchive(message)
