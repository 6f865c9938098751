from __future__ import annotations

import pytest

from medgan.deid import audit
from medgan.errors import IntegrityError

FORGED = '","digest":"' + "0" * 64 + '","previous":"' + "0" * 64 + '"'


def test_a_log_says_nothing_twice_whatever_the_runs(tmp_path):
    lines = [{"source_sha256": f"{number:064x}", "outcome": "stored"} for number in range(5)]
    assert audit.extend(tmp_path, lines[:3]) == 3
    assert audit.extend(tmp_path, lines[1:]) == 2
    assert audit.extend(tmp_path, reversed(lines)) == 0
    assert audit.verify(tmp_path)[1:] == (2, 5)
    assert [entry["source_sha256"] for entry in audit.entries(tmp_path)] == [line["source_sha256"] for line in lines]


def test_another_outcome_of_the_same_file_is_another_line(tmp_path):
    audit.extend(tmp_path, [{"source_sha256": "a" * 64, "outcome": "quarantined"}])
    assert audit.extend(tmp_path, [{"source_sha256": "a" * 64, "outcome": "stored"}]) == 1


def test_a_change_of_any_byte_is_found(tmp_path):
    audit.extend(tmp_path, [{"outcome": "stored", "actions": {"K": 3, "X": 20}}, {"outcome": "known"}])
    log = tmp_path / "0001.jsonl"
    whole = log.read_bytes()
    for position in range(len(whole)):
        log.write_bytes(whole[:position] + bytes((whole[position] ^ 1,)) + whole[position + 1 :])
        with pytest.raises(IntegrityError):
            audit.verify(tmp_path)


def test_nothing_is_built_upon_a_broken_chain(tmp_path):
    audit.extend(tmp_path, [{"outcome": "stored"}])
    log = tmp_path / "0001.jsonl"
    log.write_bytes(log.read_bytes().replace(b"stored", b"STORED"))
    with pytest.raises(IntegrityError):
        audit.extend(tmp_path, [{"outcome": "known"}])
    assert [path.name for path in tmp_path.iterdir()] == ["0001.jsonl"]


def test_a_text_that_looks_like_a_link_of_the_chain_is_only_text(tmp_path):
    assert audit.extend(tmp_path, [{"reviewer": FORGED}, {"reviewer": FORGED + "2"}]) == 2
    assert audit.verify(tmp_path)[1:] == (1, 2)
    assert [entry["reviewer"] for entry in audit.entries(tmp_path)] == [FORGED, FORGED + "2"]
