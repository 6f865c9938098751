"""Tables of labels that come inside an archive: rows of CSV or Parquet keyed by an original identifier."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from medgan import parquet
from medgan.archive import limits
from medgan.errors import BadInstance
from medgan.records import QuarantineReason as Reason

KEY_COLUMNS: Final = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_PARQUET: Final = ".parquet"
_MOST_UNPACKED: Final = 8 * limits.MAX_LABEL_BYTES
_CANONICAL: Final = {
    name.lower(): name for name in (*KEY_COLUMNS, "IssuerOfPatientID", "Modality", "finding", "sex", "age")
}


def looks_like_table(name: str) -> bool:
    """Whether a leaf's name says that it is a table."""
    return name.lower().endswith((".csv", ".tsv", _PARQUET))


def read_table(data: bytes, name: str = "") -> list[dict[str, str]] | None:
    """Rows of a table keyed by an identifier: Parquet, or CSV (comma, semicolon, tab; UTF-8, UTF-16 or Windows-1252).

    None where no column names an identifier: then it is no table of labels. Column names that differ
    from the known ones only in case and separators ("patient_id") are brought to the known spelling; columns without
    a name are left out. Raises `BadInstance` TOO_LARGE beyond 64 MiB or five million rows: it has to be split.
    """
    if len(data) > limits.MAX_LABEL_BYTES:
        raise BadInstance(Reason.TOO_LARGE)
    header, body = _parquet(data) if name.lower().endswith(_PARQUET) else _separated(data)
    columns = [_canonical(column) for column in header]
    named = [column for column in columns if column]
    if not any(column in KEY_COLUMNS for column in named) or len(set(named)) != len(named):
        return None
    rows: list[dict[str, str]] = []
    try:
        for row in body:
            if row:
                rows.append({column: value.strip() for column, value in zip(columns, row, strict=False) if column})
            if len(rows) > limits.MAX_LABEL_ROWS:
                raise BadInstance(Reason.TOO_LARGE)
    except csv.Error:
        return None
    return rows


def _separated(data: bytes) -> tuple[list[str], Iterable[Sequence[str]]]:
    text = _decode(data).lstrip("\r\n")
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith("sep="):  # what spreadsheets write before a header
        text, first = rest, rest.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        return next(reader, []), reader
    except csv.Error:
        return [], []


def _parquet(data: bytes) -> tuple[list[str], Iterable[Sequence[str]]]:
    """Names and text of flat columns; nothing where it is no Parquet or unpacks to more than a table may."""
    found = parquet.read(data, most_rows=limits.MAX_LABEL_ROWS, most_bytes=_MOST_UNPACKED)
    if found is None:
        return [], []
    table, _ = found
    try:
        texts = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    except Exception:  # noqa: BLE001 - whatever a broken table makes a reader raise, its text may quote values
        return [], []
    return list(table.column_names), zip(*texts, strict=True)


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _canonical(column: str) -> str:
    plain = column.strip().lower().replace("_", "").replace(" ", "").replace("-", "")
    return _CANONICAL.get(plain, column.strip())
