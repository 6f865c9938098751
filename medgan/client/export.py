"""A version in other people's formats: PNG with a metadata table (Hugging Face `imagefolder`), NIfTI, a montage.

An interrupted export goes on where it stopped: `exporting.json` in the folder says what it is of, and goes last.

Only the standard library and numpy: the light install exports too. Files are the stored values unchanged;
what they mean physically (slope, intercept, units, spacing) goes into the metadata and headers.
"""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medgan.client import disk
from medgan.errors import InvalidRequest
from medgan.sync import fsync_folder, fsync_tree

if TYPE_CHECKING:
    from medgan.client.load import Dataset

_PNG_GREY = 0
_NIFTI_UINT8, _NIFTI_UINT16 = 2, 512
_NIFTI_HEADER_BYTES = 348
_NIFTI_DATA_AT = 352
_MILLIMETRES = 2
_NIFTI_SCANNER = 1
_FLAT = 2
_UNFINISHED = "exporting.json"
_NOT_EMPTY = "the folder to export to is not empty: name a new one"
_AT_ONCE = 256

OnProgress = Callable[[int, int], None]
Stored = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Form = Callable[..., Path]
"""(dataset, folder, on_progress=None) -> folder."""


def form_named(form: str) -> Form:
    """The exporter of a form; `InvalidRequest` for an unknown one, or one that this installation cannot write."""
    forms: dict[str, Form] = {"png": export_png, "nifti": export_nifti}
    if form in forms:
        return forms[form]
    if form == "huggingface":
        from medgan.client.huggingface import export_huggingface

        return export_huggingface
    if form != "dicom":
        raise InvalidRequest(f"images are exported as {', '.join(forms)}, huggingface or dicom")
    try:
        # By name: the client is installed alone, and pydicom comes with the platform.
        writer: Form = importlib.import_module("medgan.release.dicom").export_dicom
    except ImportError:
        raise InvalidRequest("DICOM is written by the platform: pip install 'medgan[platform]'") from None
    return writer


def png(image_HW: Stored) -> bytes:
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


def export_png(dataset: Dataset, folder: Path, *, on_progress: OnProgress | None = None) -> Path:
    """Write `images/<row>.png` (16 bits, stored values), `metadata.csv` and `README.json`; gives `folder`.

    Masks become `masks/<row>.png` (8 bits, the structures' values) and the column `mask_file_name`.
    `datasets.load_dataset("imagefolder", data_dir=folder)` reads it, labels and masks included.
    """
    if is_volumes(dataset):
        raise InvalidRequest("PNG holds flat images, and these are volumes: export them as nifti or dicom")

    def write(index: int, path: Path) -> None:
        path.write_bytes(png(dataset[index][0]))

    def write_mask(index: int, path: Path) -> None:
        path.write_bytes(png(dataset.mask(index)))

    with begun(dataset, folder, "png"):
        one_by_one(dataset, folder, ".png", write, on_progress)
        names = {"file_name": [f"images/{int(row):07d}.png" for row in dataset.rows]}
        if dataset.structures:
            one_by_one(dataset, folder, ".png", write_mask, where="masks")
            names["mask_file_name"] = [f"masks/{int(row):07d}.png" for row in dataset.rows]
        write_labels(dataset, folder / "metadata.csv", **names)
        readme(dataset, folder)
    return folder


def export_nifti(dataset: Dataset, folder: Path, *, on_progress: OnProgress | None = None) -> Path:
    """Write `images.nii.gz` (W, H, N) uint16 with slope, intercept and spacing, `labels.csv` and `README.json`.

    Image i is slice i along the third axis, which is no direction in space: its spacing is 1. Volumes become a file
    each, `images/<row>.nii.gz` (W, H, D), slices in order, with an affine of their spacing. Masks of flat images
    become `masks.nii.gz` (W, H, N) uint8.
    """
    attrs = dataset.attrs

    def write(index: int, path: Path) -> None:
        volume_DHW = dataset[index][0]
        depth, height, width = volume_DHW.shape
        with gzip.GzipFile(path, "wb", mtime=0) as file:
            file.write(nifti_header((width, height, depth), attrs, volume=True))
            file.write(np.ascontiguousarray(volume_DHW, dtype="<u2").tobytes())

    with begun(dataset, folder, "nifti"):
        if is_volumes(dataset):
            one_by_one(dataset, folder, ".nii.gz", write, on_progress)
        else:
            _slices(dataset, dataset.images, folder / "images.nii.gz", on_progress)
            if dataset.structures:
                _slices(dataset, dataset.masks, folder / "masks.nii.gz")
        write_labels(dataset, folder / "labels.csv")
        readme(dataset, folder)
    return folder


def _slices(dataset: Dataset, images: Stored, path: Path, on_progress: OnProgress | None = None) -> None:
    """All flat images, or their masks, as one file, a slice each."""
    count, height, width = images.shape
    kind = images.dtype.newbyteorder("<")
    head = nifti_header((width, height, count), dataset.attrs, masks=kind.itemsize == 1)
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write(head)
        for start in range(0, count, _AT_ONCE):
            part = images[start : start + _AT_ONCE]
            file.write(np.ascontiguousarray(part, dtype=kind).tobytes())
            if on_progress is not None:
                on_progress(start + len(part), count)


def nifti_header(
    shape: tuple[int, int, int], attrs: dict[str, object], *, volume: bool = False, masks: bool = False
) -> bytes:
    """352 bytes of NIfTI-1 header for uint16 data of `shape` (nifti.nimh.nih.gov/nifti-1, struct nifti_1_header).

    A `volume` has an affine: columns to the patient's left, rows to the back, slices upwards, as its DICOM says.
    `masks` are uint8, their values are no intensities.
    """
    if max(shape) > np.iinfo(np.int16).max:
        raise InvalidRequest(f"NIfTI-1 holds at most 32,767 images in one file, not {max(shape):,}: export a split")
    spacing: list[float] = [float(value) for value in attrs.get("spacing_mm") or (1.0, 1.0)]  # type: ignore[attr-defined]
    slice_mm = spacing[0] if len(spacing) > _FLAT else 1.0
    row_mm, column_mm = spacing[-_FLAT:]
    slope, intercept = float(attrs.get("rescale_slope", 1)), float(attrs.get("rescale_intercept", 0))  # type: ignore[arg-type]
    if masks:
        slope, intercept = 1.0, 0.0
    header = bytearray(_NIFTI_DATA_AT)
    struct.pack_into("<i", header, 0, _NIFTI_HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)  # dim
    struct.pack_into("<hh", header, 70, *((_NIFTI_UINT8, 8) if masks else (_NIFTI_UINT16, 16)))  # datatype, bitpix
    struct.pack_into("<8f", header, 76, 1, column_mm, row_mm, slice_mm, 1, 1, 1, 1)  # pixdim
    struct.pack_into("<3f", header, 108, _NIFTI_DATA_AT, slope, intercept)  # vox_offset, scl_slope, scl_inter
    struct.pack_into("<b", header, 123, _MILLIMETRES)  # xyzt_units
    described = b"SYNTHETIC volume" if volume else b"SYNTHETIC images; one a slice, not a volume"
    struct.pack_into("<80s", header, 148, described)  # descrip
    if volume:  # NIfTI's axes go right, forward, up; DICOM's left, back, up (PS3.3 C.7.6.2.1.1)
        struct.pack_into("<hh", header, 252, 0, _NIFTI_SCANNER)  # qform_code, sform_code
        affine = (-column_mm, 0, 0, 0, 0, -row_mm, 0, 0, 0, 0, slice_mm, 0)
        struct.pack_into("<12f", header, 280, *affine)  # srow_x, srow_y, srow_z
    struct.pack_into("<4s", header, 344, b"n+1\0")  # magic
    return bytes(header)


def montage(dataset: Dataset, *, rows: int = 4, columns: int = 8) -> npt.NDArray[np.uint8]:
    """The first images, or volumes' middle slices, as one picture (rows x H, columns x W) uint8 of their window."""
    if rows < 1 or columns < 1:
        raise InvalidRequest("a montage has at least one row and one column")
    count = min(rows * columns, len(dataset))
    chosen = np.stack([_middle(dataset[index][0]) for index in range(count)])
    height, width = chosen.shape[1:]
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:count] = np.rint((dataset.scaled(chosen) + 1) * 127.5).astype(np.uint8)
    return tiles.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def _middle(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    return image if image.ndim == _FLAT else image[len(image) // 2]


def is_volumes(dataset: Dataset) -> bool:
    """Whether the version holds volumes (D, H, W) instead of flat images."""
    return len(dataset) > 0 and dataset[0][0].ndim > _FLAT


@contextmanager
def begun(dataset: Dataset, folder: Path, form: str) -> Iterator[None]:
    """Export into `folder`: a new one, or one in which an export of the very same was interrupted.

    Raises:
        InvalidRequest: something else lies in the folder.
        Conflict: another export writes into it at this moment.
        StoreUnavailable: the disk refuses.
    """
    said = json.dumps({"form": form, "split": dataset.split, "manifest_sha256": dataset.manifest.digest}).encode()
    mark = folder / _UNFINISHED
    with disk.explained():
        folder.mkdir(parents=True, exist_ok=True)
        if not mark.is_file() and any(folder.iterdir()):
            raise InvalidRequest(_NOT_EMPTY)
    with disk.locked(mark, busy="another export writes into this folder: wait for its end"), disk.explained():
        held = mark.read_bytes()
        if held != said:
            if held or any(path != mark for path in folder.iterdir()):
                raise InvalidRequest(_NOT_EMPTY)
            mark.write_bytes(said)
        yield
        fsync_tree(folder)  # what is no longer marked as unfinished is durable
        mark.unlink()
        fsync_folder(folder)


def one_by_one(
    dataset: Dataset,
    folder: Path,
    suffix: str,
    write: Callable[[int, Path], None],
    on_progress: OnProgress | None = None,
    *,
    where: str = "images",
) -> None:
    """`write(index, path)` every image to `<where>/<row><suffix>` that is not there yet, each whole or not at all."""
    images = folder / where
    images.mkdir(exist_ok=True)
    for index in range(len(dataset)):
        path = images / f"{int(dataset.rows[index]):07d}{suffix}"
        if not path.exists():
            partial = path.with_name(f".partial{suffix}")
            if partial.is_dir():
                shutil.rmtree(partial)
            write(index, partial)
            partial.replace(path)
        if on_progress is not None:
            on_progress(index + 1, len(dataset))


def write_labels(dataset: Dataset, path: Path, **first: Sequence[str]) -> None:
    """Write the labels as CSV, `first` columns in front of them. Text that a spreadsheet would run is led by a quote.

    A spreadsheet takes a cell that begins with = + - @ for a formula, and labels are somebody's words (OWASP, "CSV
    injection").
    """
    labels = dataset.labels.map(_no_formula).rename(columns=_no_formula).assign(**first)
    labels[[*first, *(name for name in labels.columns if name not in first)]].to_csv(path, index=False)


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


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
    if dataset.structures:
        said["structures"] = dict(enumerate(dataset.structures, start=1))
    disk.write_file(folder / "README.json", json.dumps(said, indent=1, sort_keys=True).encode() + b"\n")
