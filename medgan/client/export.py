"""A version in other people's formats: PNG with a metadata table (Hugging Face `imagefolder`), NIfTI, a montage.

Only the standard library and numpy: the light install exports too. Files are the stored values unchanged;
what they mean physically (slope, intercept, units, spacing) goes into the metadata and headers.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medgan.client import disk
from medgan.errors import InvalidRequest

if TYPE_CHECKING:
    from medgan.client.load import Dataset

_PNG_GREY = 0
_NIFTI_UINT16 = 512
_NIFTI_HEADER_BYTES = 348
_NIFTI_DATA_AT = 352
_MILLIMETRES = 2


def form_named(form: str) -> Callable[[Dataset, Path], Path]:
    """The exporter of a form; `InvalidRequest` for an unknown one, or one that this installation cannot write."""
    forms = {"png": export_png, "nifti": export_nifti}
    if form in forms:
        return forms[form]
    if form == "huggingface":
        from medgan.client.huggingface import export_huggingface

        return export_huggingface
    if form != "dicom":
        raise InvalidRequest(f"images are exported as {', '.join(forms)}, huggingface or dicom")
    try:
        # By name: the client is installed alone, and pydicom comes with the platform.
        writer: Callable[[Dataset, Path], Path] = importlib.import_module("medgan.release.dicom").export_dicom
    except ImportError:
        raise InvalidRequest("DICOM is written by the platform: pip install 'medgan[platform]'") from None
    return writer


def png(image_HW: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """A grey PNG of 8 or 16 bits with the values as they are (PNG specification, third edition)."""
    bits = 8 * image_HW.dtype.itemsize
    height, width = image_HW.shape
    big_endian = image_HW.astype(image_HW.dtype.newbyteorder(">"), copy=False)
    lines = b"".join(b"\0" + line.tobytes() for line in big_endian)
    head = struct.pack(">IIBBBBB", width, height, bits, _PNG_GREY, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def export_png(dataset: Dataset, folder: Path) -> Path:
    """Write `images/<row>.png` (16 bits, stored values), `metadata.csv` and `README.json`; gives `folder`.

    `datasets.load_dataset("imagefolder", data_dir=folder)` reads it, labels included.
    """
    fresh(folder)
    with disk.explained(), (folder / "metadata.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", *dataset.labels.columns])
        for index in range(len(dataset)):
            image, _ = dataset[index]
            name = f"images/{int(dataset.rows[index]):07d}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(png(image))
            writer.writerow([name, *dataset.labels.iloc[index].tolist()])
    readme(dataset, folder)
    return folder


def export_nifti(dataset: Dataset, folder: Path) -> Path:
    """Write `images.nii.gz` (W, H, N) uint16 with slope, intercept and spacing, `labels.csv` and `README.json`.

    Image i is slice i along the third axis, which is no direction in space: its spacing is 1.
    """
    fresh(folder)
    images = dataset.images
    count, height, width = images.shape
    with disk.explained(), gzip.GzipFile(folder / "images.nii.gz", "wb", mtime=0) as file:
        file.write(nifti_header((width, height, count), dataset.attrs))
        file.write(np.ascontiguousarray(images, dtype="<u2").tobytes())
    dataset.labels.to_csv(folder / "labels.csv", index=False)
    readme(dataset, folder)
    return folder


def nifti_header(shape: tuple[int, int, int], attrs: dict[str, object]) -> bytes:
    """352 bytes of NIfTI-1 header for uint16 data of `shape` (nifti.nimh.nih.gov/nifti-1, struct nifti_1_header)."""
    if max(shape) > np.iinfo(np.int16).max:
        raise InvalidRequest(f"NIfTI-1 holds at most 32,767 images in one file, not {max(shape):,}: export a split")
    row_mm, column_mm = (float(value) for value in attrs.get("spacing_mm") or (1.0, 1.0))  # type: ignore[attr-defined]
    slope, intercept = float(attrs.get("rescale_slope", 1)), float(attrs.get("rescale_intercept", 0))  # type: ignore[arg-type]
    header = bytearray(_NIFTI_DATA_AT)
    struct.pack_into("<i", header, 0, _NIFTI_HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)  # dim
    struct.pack_into("<hh", header, 70, _NIFTI_UINT16, 16)  # datatype, bitpix
    struct.pack_into("<8f", header, 76, 1, column_mm, row_mm, 1, 1, 1, 1, 1)  # pixdim
    struct.pack_into("<3f", header, 108, _NIFTI_DATA_AT, slope, intercept)  # vox_offset, scl_slope, scl_inter
    struct.pack_into("<b", header, 123, _MILLIMETRES)  # xyzt_units
    struct.pack_into("<80s", header, 148, b"SYNTHETIC images; one a slice, not a volume")  # descrip
    struct.pack_into("<4s", header, 344, b"n+1\0")  # magic
    return bytes(header)


def montage(dataset: Dataset, *, rows: int = 4, columns: int = 8) -> npt.NDArray[np.uint8]:
    """The first images as one picture (rows x H, columns x W) uint8, windowed by `intensity_range`."""
    if rows < 1 or columns < 1:
        raise InvalidRequest("a montage has at least one row and one column")
    count = min(rows * columns, len(dataset))
    chosen = np.stack([dataset[index][0] for index in range(count)])
    height, width = chosen.shape[1:]
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:count] = np.rint((dataset.scaled(chosen) + 1) * 127.5).astype(np.uint8)
    return tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def fresh(folder: Path) -> None:
    """Make the folder to export to; `InvalidRequest` when something lies in it."""
    if folder.exists() and any(folder.iterdir()):
        raise InvalidRequest("the folder to export to is not empty: name a new one")
    with disk.explained():
        folder.mkdir(parents=True, exist_ok=True)


def readme(dataset: Dataset, folder: Path) -> None:
    """Write `README.json`: what the images are and how their values are read."""
    manifest = dataset.manifest
    said = {
        "synthetic": True,
        "name": manifest.name,
        "version": manifest.version,
        "title": manifest.title,
        "licence": manifest.licence,
        "attribution": manifest.attribution,
        "attributes": dataset.attrs,
        "manifest_sha256": manifest.digest,
    }
    disk.write_file(folder / "README.json", json.dumps(said, indent=1, sort_keys=True).encode() + b"\n")
