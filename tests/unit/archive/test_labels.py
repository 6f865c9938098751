"""Tables of labels find their patients, whatever they are keyed by and however they were saved."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from medgan.archive import instance, labels, limits, people
from medgan.errors import BadInstance
from medgan.settings import Zones
from tests.unit.archive.builders import scan_path, sound, write_files

ROWS = [{"PatientID": "Ä-1", "finding": "normal"}, {"PatientID": "Ä-2", "finding": "sick"}]


@pytest.mark.parametrize(
    "table",
    [
        "PatientID,finding\nÄ-1,normal\nÄ-2,sick\n".encode(),
        "\ufeffPatientID;finding\r\nÄ-1;normal\r\nÄ-2;sick\r\n".encode(),
        "patient_id\tFinding\nÄ-1\tnormal\n\nÄ-2\tsick\n".encode("cp1252"),
        '"Patient ID","finding"\n" Ä-1 ","normal"\n"Ä-2","sick"'.encode(),
        "PatientID\tfinding\r\nÄ-1\tnormal\r\nÄ-2\tsick\r\n".encode("utf-16"),
        "\r\nPatientID,finding,,\r\nÄ-1,normal,,\r\nÄ-2,sick,,\r\n".encode(),
        "\ufeffsep=;\r\nPatientID;finding\r\nÄ-1;normal\r\nÄ-2;sick\r\n".encode(),
    ],
)
def test_tables_as_hospitals_save_them(table: bytes) -> None:
    assert labels.read_table(table) == ROWS


def test_parquet_is_a_table_too() -> None:
    out = io.BytesIO()
    pd.DataFrame({"patient_id": ["Ä-1", "Ä-2"], "finding": ["normal", "sick"]}).to_parquet(out)
    assert labels.read_table(out.getvalue(), "x.parquet") == ROWS
    assert labels.read_table(out.getvalue()[:-20], "x.parquet") is None


def test_a_parquet_of_broken_text_is_none_and_no_error_quotes_it() -> None:
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"DOE\x80")])
    out = io.BytesIO()
    parquet.write_table(pa.table({"PatientID": text, "finding": ["normal"]}), out)
    assert labels.read_table(out.getvalue(), "x.parquet") is None


def test_a_parquet_that_grows_when_it_is_read_is_no_table_and_a_nested_column_is_left_out() -> None:
    """A long text in every row is stored once: 2 kB became gigabytes, whatever the file says of its size."""
    count = 3000
    long = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * 2**18]))
    keys = pa.array([str(number) for number in range(count)])
    for finding, read in ((long, None), (pa.array([["a"]] * count), [{"PatientID": str(n)} for n in range(count)])):
        out = io.BytesIO()
        parquet.write_table(pa.table({"PatientID": keys, "finding": finding}), out, compression="zstd")
        assert len(out.getvalue()) < 100_000
        assert labels.read_table(out.getvalue(), "x.parquet") == read


def test_columns_of_nothing_count_too_because_every_row_of_them_takes_memory(monkeypatch) -> None:
    monkeypatch.setattr(labels, "_MOST_UNPACKED", 400_000)
    keys = pa.array([str(number) for number in range(1000)])
    for columns, read in ((100, False), (10, True)):
        nothing = {f"c{number}": pa.nulls(1000) for number in range(columns)}
        out = io.BytesIO()
        parquet.write_table(pa.table({"PatientID": keys} | nothing), out)
        assert (labels.read_table(out.getvalue(), "x.parquet") is not None) == read


def test_a_table_without_an_identifier_is_none() -> None:
    assert labels.read_table(b"name,finding\nDoe,normal\n") is None
    assert labels.read_table(b"PatientID,PatientID\n1,2\n") is None
    assert labels.read_table(b"") is None


def test_a_table_beyond_the_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_LABEL_ROWS", 2)
    with pytest.raises(BadInstance, match="TOO_LARGE"):
        labels.read_table(b"PatientID,x\n1,1\n2,1\n3,1\n")


def test_a_table_beyond_the_cap_does_not_stop_the_scan(tmp_path: Path, zones: Zones, monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAX_LABEL_BYTES", 20)
    files = {"a.dcm": sound(), "t.csv": b"PatientID,x\n1,1\n2,1\n3,1\n"}
    report, _ = scan_path(write_files(tmp_path / "in", files), zones)
    assert (report.instances, report.rejected) == (1, {"TOO_LARGE": 1})


@pytest.mark.parametrize("column", ["PatientID", "AccessionNumber", "StudyInstanceUID", "SOPInstanceUID"])
def test_rows_find_their_patient_by_any_identifier(column: str, tmp_path: Path, zones: Zones) -> None:
    data = sound(patient=3)
    key = instance.parse(data)[column].value
    files = {"a.dcm": data, "b.dcm": sound(patient=4), "t.csv": f"{column},finding\n{key},sick\nnobody,x\n".encode()}
    report, found = scan_path(write_files(tmp_path / "in", files), zones)
    someone = people.person(3)
    assert report.label_rows == 2
    (row,) = [row for row in found.labels if row["finding"] == "sick"]
    assert (row["PatientID"], row["IssuerOfPatientID"]) == (someone.patient_id, someone.issuer)
    (other,) = [row for row in found.labels if row["finding"] == "x"]
    assert other["PatientID"] in {"", "nobody"}
    _, found_again = scan_path(tmp_path / "in", zones)
    assert found_again.labels == found.labels
