"""A Parquet file of strangers, read within bounds: what it says of its own size is their word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST_BYTES = 8


def read(data: bytes, *, most_rows: int, most_bytes: int) -> tuple[pa.Table, int] | None:
    """The flat columns in `data`, and how many nested ones were left out.

    None where it is no such file, names a column twice, has more rows or is larger when decoded. Never raises for what
    it holds, which any error would quote; its texts may still be no UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            said, schema = file.metadata, file.schema_arrow
            packed = sum(said.row_group(number).total_byte_size for number in range(said.num_row_groups))
            flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
            if said.num_rows > most_rows or packed > most_bytes or len({*schema.names}) < len(schema):
                return None
        # A long text in every row is stored once: it is measured before it is written out for each.
        with pq.ParquetFile(pa.BufferReader(data), read_dictionary=flat) as file:
            left = most_bytes
            for group in range(file.num_row_groups):
                for name in flat:
                    left -= _written_out(file.read_row_group(group, columns=[name]))
                    if left < 0:
                        return None
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            # What the file says of pandas is believed no more than the rest of it.
            return file.read(columns=flat, use_pandas_metadata=False), len(schema) - len(flat)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError):  # any bytes may stand there
        return None


def _written_out(table: pa.Table) -> int:
    """Bytes of the table with every text in every row of its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = 0
    for chunk in (chunk for column in table.columns for chunk in column.chunks):
        texts = isinstance(chunk, pa.DictionaryArray) and not pa.types.is_primitive(chunk.type.value_type)
        lengths = pc.binary_length(chunk.dictionary).take(chunk.indices) if texts else None
        own = chunk.nbytes if lengths is None else pc.sum(lengths.cast(pa.int64())).as_py() or 0
        size += max(own, _LEAST_BYTES * len(chunk))  # what is nothing, or empty, takes a place in every row
    return size
