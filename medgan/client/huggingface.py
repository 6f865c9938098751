"""A version as a data set for Hugging Face: Parquet files that carry its features, and a card.

`datasets.load_dataset(FOLDER)` reads it, and the folder can be uploaded to a hub as it is. Written by pyarrow alone:
what `datasets` needs to know (an image column, class names) stands in the Parquet schema (huggingface.co/docs/datasets,
"Features"; `datasets/features/features.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgan.client import export
from medgan.errors import InvalidRequest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from medgan.client.load import Dataset

ROWS_A_FILE = 8192
_ROWS_AT_ONCE = 512
_LABEL, _MASK = "label", "mask"


def export_huggingface(dataset: Dataset, folder: Path, *, on_progress: export.OnProgress | None = None) -> Path:
    """Write `data/<split>-NNNNN-of-NNNNN.parquet` and `README.md`; gives `folder`.

    Columns: `image` (PNG of 16 bits, stored values), `label` (class, by name), and the other label columns; where the
    version has masks also `mask` (PNG of 8 bits, values of structures).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if export.is_volumes(dataset):
        raise InvalidRequest("a Hugging Face image column holds flat images, and these are volumes: export as nifti")
    schema, done = _schema(dataset), 0
    with export.begun(dataset, folder, "huggingface"):
        (folder / "data").mkdir(exist_ok=True)
        for name, rows in _files(dataset):
            path = folder / "data" / name
            partial = path.with_name(f".partial-{name}")
            if path.exists():
                done += len(rows)
                continue
            with pq.ParquetWriter(partial, schema, compression="snappy") as writer:
                for start in range(0, len(rows), _ROWS_AT_ONCE):
                    block = rows[start : start + _ROWS_AT_ONCE]
                    writer.write_batch(pa.RecordBatch.from_pydict(_columns(dataset, block), schema=schema))
                    done += len(block)
                    if on_progress is not None:
                        on_progress(done, len(dataset))
            partial.replace(path)
        (folder / "README.md").write_text(_card(dataset), encoding="utf-8")
    return folder


def _files(dataset: Dataset) -> Iterator[tuple[str, list[int]]]:
    """File name and image numbers of each file, split by split; the name's pattern is the hub's."""
    for split, group in dataset.labels.groupby("split", sort=True):
        rows = group.index.tolist()
        count = -(-len(rows) // ROWS_A_FILE)
        for number in range(count):
            name = f"{split}-{number:05d}-of-{count:05d}.parquet"
            yield name, rows[number * ROWS_A_FILE : (number + 1) * ROWS_A_FILE]


def _columns(dataset: Dataset, rows: list[int]) -> dict[str, list[Any]]:
    about: pd.DataFrame = dataset.labels.iloc[rows]
    names = [f"{int(dataset.rows[row]):07d}.png" for row in rows]
    images = [{"bytes": export.png(dataset[row][0]), "path": name} for row, name in zip(rows, names, strict=True)]
    others = {name: about[name].tolist() for name in _others(dataset)}
    if dataset.structures:
        masks = [{"bytes": export.png(dataset.mask(row)), "path": name} for row, name in zip(rows, names, strict=True)]
        others[_MASK] = masks
    return {"image": images, _LABEL: dataset.class_index[rows].tolist(), **others}


def _others(dataset: Dataset) -> list[str]:
    return [name for name in dataset.labels.columns if name not in {"class", "split", "image", _MASK, _LABEL}]


def _schema(dataset: Dataset) -> pa.Schema:
    """Arrow fields, and the same as features of `datasets`."""
    import pyarrow as pa

    fields = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), _LABEL: pa.int64()}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        _LABEL: {"_type": "ClassLabel", "names": list(dataset.classes)},
    }
    for name in _others(dataset):
        fields[name], kind = {
            "i": (pa.int64(), "int64"),
            "u": (pa.int64(), "int64"),
            "f": (pa.float64(), "float64"),
        }.get(dataset.labels[name].dtype.kind, (pa.string(), "string"))
        features[name] = {"_type": "Value", "dtype": kind}
    if dataset.structures:
        fields[_MASK], features[_MASK] = fields["image"], features["image"]
    about = {"info": {"features": features}}
    return pa.schema(list(fields.items()), metadata={"huggingface": json.dumps(about)})


def _card(dataset: Dataset) -> str:
    """The card: what a hub reads in YAML, then where it comes from, then the datasheet as it was signed."""
    manifest = dataset.manifest
    head = {
        "license": manifest.licence.lower() or "other",
        "pretty_name": f"{manifest.title} {manifest.version}",
        "tags": ["synthetic", "medical"],
        "task_categories": ["image-classification", *(["image-segmentation"] if dataset.structures else [])],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": str(split), "path": f"data/{split}-*"} for split in sorted(set(dataset.labels["split"]))
                ],
            }
        ],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()]  # JSON is YAML
    origin = (
        f"**SYNTHETIC**: no image shows a patient. Exported from `{manifest.name}@{manifest.version}`, whose "
        f"signed manifest has SHA-256 `{manifest.digest}`. Pixels are the stored 16-bit values; "
        f"how they become physical ones: `{json.dumps(dataset.attrs, sort_keys=True)}`."
    )
    if dataset.structures:
        values = json.dumps(dict(enumerate(dataset.structures, start=1)), ensure_ascii=False)
        origin += f" Values of `mask`: `{values}`, 0 is background."
    signed = [dataset.folder / name for name in ("DATASHEET.md", "TERMS.md")]
    texts = [path.read_text(encoding="utf-8") for path in signed if path.is_file()]
    return "\n".join(["---", *lines, "---", "", origin, "", *texts])
