"""Looking for identifiers in raw bytes: every file, every encoding, inside compressed streams too.

Thousands of needles in some fifty spellings each are looked for at once: the first `_FIRST` bytes of
every window of a blob are looked up in a table of all there are, those that occur by `_KEY` bytes in a
sorted table of keys, and only a match is compared in full.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "shift_jis", "gb18030", "euc_kr", "iso8859_5", "iso8859_7", "latin-1")
_KEY = 5
_FIRST = 3
_BLOCK = 1 << 22
_DATE = re.compile(rb"(?<![0-9A-Za-z.])(?:19|20)\d\d(-?)\d\d\1\d\d(?![0-9A-Za-z.])")


def spellings(needle: str) -> set[bytes]:
    """The byte strings that would betray `needle`: as it is, with ^ as other separators, in other encodings."""
    variants = {needle, needle.upper(), needle.lower(), *(needle.replace("^", mark) for mark in (" ", "_", ", "))}
    found = {variant.encode("unicode_escape") for variant in variants}
    for variant in variants:
        for encoding in _ENCODINGS:
            try:
                found.add(variant.encode(encoding))
            except UnicodeEncodeError:
                continue
    return found


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what they inflate to where they are one compressed stream."""
    raw = path.read_bytes()
    yield raw
    for inflate in (gzip.decompress, zlib.decompress):
        try:
            yield inflate(raw)
        except (OSError, EOFError, zlib.error):
            continue


def _windows(octets: np.ndarray, width: int) -> np.ndarray:
    """Every run of `width` bytes, (..., width + n - 1) uint8, as one integer, (..., n) uint64; uint32 up to 4 bytes."""
    kind = np.uint32 if width <= 4 else np.uint64
    count = octets.shape[-1] - width + 1
    total = octets[..., :count].astype(kind)
    for offset in range(1, width):
        total = (total << kind(8)) | octets[..., offset : offset + count]
    return total


@dataclass(frozen=True, slots=True)
class Scanner:
    """All spellings of all needles, ready to be looked for."""

    first: np.ndarray
    keys: np.ndarray
    wanted: dict[int, list[tuple[bytes, str]]]

    @classmethod
    def of(cls, needles: Iterable[str]) -> Scanner:
        """Prepare for `needles`; each must have at least `_KEY` bytes in every spelling."""
        wanted: dict[int, list[tuple[bytes, str]]] = {}
        for needle in needles:
            for spelling in spellings(needle):
                assert len(spelling) >= _KEY, f"a needle of {len(spelling)} bytes would be found by chance"
                key = int.from_bytes(spelling[:_KEY], "big")
                wanted.setdefault(key, []).append((spelling, needle))
        keys = np.array(sorted(wanted), dtype=np.uint64)
        first = np.zeros(1 << 8 * _FIRST, dtype=bool)
        first[keys >> np.uint64(8 * (_KEY - _FIRST))] = True
        return cls(first, keys, wanted)

    def find(self, raw: bytes) -> set[str]:
        """Needles that occur in `raw`."""
        found: set[str] = set()
        octets = np.frombuffer(raw, dtype=np.uint8)
        for start in range(0, max(len(raw) - _KEY + 1, 0), _BLOCK):
            block = octets[start : start + _BLOCK + _KEY - 1]
            candidates = np.flatnonzero(self.first[_windows(block, _FIRST)[: len(block) - _KEY + 1]])
            windows = _windows(block[candidates[:, None] + np.arange(_KEY)], _KEY)[:, 0]
            slots = np.searchsorted(self.keys, windows).clip(max=len(self.keys) - 1)
            for at in np.flatnonzero(self.keys[slots] == windows):
                position = start + int(candidates[at])
                found |= {
                    needle for spelling, needle in self.wanted[int(windows[at])] if raw.startswith(spelling, position)
                }
        return found


def dated(root: Path, dates: Iterable[str]) -> dict[str, list[str]]:
    """Date (YYYYMMDD) -> files that hold it as a date, DICOM or ISO; digits inside a digest are none."""
    wanted = {spelling.encode(): date for date in dates for spelling in (date, f"{date[:4]}-{date[4:6]}-{date[6:]}")}
    hits: dict[str, list[str]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        for blob in contents(path):
            for match in _DATE.finditer(blob):
                if match.group() in wanted:
                    hits.setdefault(wanted[match.group()], []).append(str(path.relative_to(root)))
    return hits


def residue(root: Path, needles: Iterable[str]) -> dict[str, list[str]]:
    """Needle -> files below `root` that hold it, in their bytes or their names; logs are files like any other."""
    scanner = Scanner.of(needles)
    hits: dict[str, list[str]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        where = str(path.relative_to(root))
        for needle in set().union(scanner.find(where.encode()), *(scanner.find(blob) for blob in contents(path))):
            hits.setdefault(needle, []).append(where)
    return hits
