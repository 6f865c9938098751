"""Tables of labels that come inside an archive: CSV rows keyed by an original identifier."""

from __future__ import annotations

import csv
import io
from typing import Final

from medgan.archive import limits
from medgan.errors import UnusableArchive

KEY_COLUMNS: Final = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_CANONICAL: Final = {
    name.lower(): name for name in (*KEY_COLUMNS, "IssuerOfPatientID", "Modality", "finding", "sex", "age")
}


def looks_like_table(name: str) -> bool:
    """Whether a leaf's name says that it is a table."""
    return name.lower().endswith((".csv", ".tsv"))


def read_table(data: bytes) -> list[dict[str, str]] | None:
    """Rows of a CSV table (comma, semicolon or tab; UTF-8 or Windows-1252) keyed by an identifier.

    None where no column names an identifier: then it is no table of labels. Column names that differ
    from the known ones only in case and separators ("patient_id") are brought to the known spelling.
    """
    if len(data) > limits.MAX_LABEL_BYTES:
        message = f"a table of labels is larger than {limits.MAX_LABEL_BYTES // limits.MIB} MiB: split it"
        raise UnusableArchive(message)
    text = _decode(data)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [_canonical(column) for column in next(reader, [])]
    if not any(column in KEY_COLUMNS for column in columns) or len(set(columns)) != len(columns):
        return None
    rows: list[dict[str, str]] = []
    try:
        for row in reader:
            if row:
                rows.append({column: value.strip() for column, value in zip(columns, row, strict=False)})
            if len(rows) > limits.MAX_LABEL_ROWS:
                message = f"a table of labels has more than {limits.MAX_LABEL_ROWS:,} rows: split it"
                raise UnusableArchive(message)
    except csv.Error:
        return None
    return rows


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _canonical(column: str) -> str:
    plain = column.strip().lower().replace("_", "").replace(" ", "").replace("-", "")
    return _CANONICAL.get(plain, column.strip())
