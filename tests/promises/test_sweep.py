"""The sweep itself is not blind."""

from __future__ import annotations

import gzip

import pytest

from tests.promises.sweep import dated, residue

NEEDLES = ["DOE^JANE", "Иванова^Анна", "山田^太郎", "MRN-4711-0815", "19601224"]


@pytest.mark.parametrize("needle", NEEDLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "gb18030", "unicode_escape"])
def test_a_planted_needle_is_found_in_every_encoding_and_only_that_one(tmp_path, needle, encoding):
    (tmp_path / "a.bin").write_bytes(b"\x00\xff" * 1000 + needle.encode(encoding) + b"tail")
    (tmp_path / "b.bin").write_bytes(b"nothing here")
    assert residue(tmp_path, NEEDLES) == {needle: ["a.bin"]}


def test_a_needle_is_found_where_blocks_meet_in_names_of_files_and_inside_gzip(tmp_path):
    (tmp_path / "boundary").write_bytes(b"x" * ((1 << 22) - 3) + b"DOE JANE")
    (tmp_path / "packed").write_bytes(gzip.compress(b"MRN-4711-0815"))
    (tmp_path / "19601224.txt").write_bytes(b"")
    assert residue(tmp_path, NEEDLES) == {
        "DOE^JANE": ["boundary"],
        "MRN-4711-0815": ["packed"],
        "19601224": ["19601224.txt"],
    }


def test_a_date_is_found_as_a_date_and_not_inside_a_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\x0819601224\0")
    (tmp_path / "b").write_bytes(b'{"born": "1960-12-24"}')
    (tmp_path / "c").write_bytes(b"sha256:ab19601224cd 2.25.19601224")
    assert dated(tmp_path, ["19601224"]) == {"19601224": ["a", "b"]}
