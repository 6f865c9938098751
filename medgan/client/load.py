"""A pulled version as arrays: images, labels, and how to read their intensities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medgan.client import agreement, progress, verify
from medgan.client import pull as pulls
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Manifest

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from medgan.client.loader import Loader
    from medgan.client.shards import ShardReader

IMAGES = agreement.GROUP
LABELS = "labels.parquet"


def load(
    spec: str,
    split: str | None = None,
    *,
    registry: str | None = None,
    trust: Path | str | None = None,
    cache: Path | None = None,
    allow_withdrawn: bool = False,
    offline: bool = False,
    lazy: bool = False,
    now: datetime | None = None,
) -> Dataset:
    """Pull (or find) and verify `NAME[@VERSION]` and open it; `split` keeps the rows of one split.

    `lazy` pulls nothing but the labels: each shard is fetched, verified and cached when it is first touched.
    A pull shows its progress where standard error is a terminal.
    """
    if lazy and not offline:
        from medgan.client import remote

        return remote.open_remote(
            spec, split, registry=registry, trust=trust, cache=cache, allow_withdrawn=allow_withdrawn, now=now
        )
    with progress.shown(spec) as on_progress:
        folder = pulls.pull(
            spec,
            registry=registry,
            trust=trust,
            cache=cache,
            allow_withdrawn=allow_withdrawn,
            offline=offline,
            now=now,
            on_progress=on_progress,
        )
    return open_folder(folder, split)


def open_folder(folder: Path | str, split: str | None = None) -> Dataset:
    """Open a version that lies in `folder`, verified before by `pull` or `verify`."""
    return Dataset(Path(folder), split)


class Dataset:
    """One version in memory's reach.

    `images` (N, H, W) uint16 in stored units, `labels` a pandas frame whose row i is image i,
    `class_index` (N,) int64 into `classes`, `attrs` of the array (intensity_range, rescale_slope, ...).
    `structures` that its masks outline, and `masks` (N, H, W) uint8: 0 is background, k is `structures[k - 1]`.
    """

    def __init__(self, folder: Path, split: str | None = None) -> None:
        """Open the version in `folder`; nothing but the manifest is read yet."""
        try:
            self.manifest = Manifest.model_validate_json((folder / verify.MANIFEST).read_bytes())
        except (OSError, ValueError):
            raise IntegrityError("this folder holds no readable version: pull it again") from None
        self.folder = folder
        self.split = split
        self.name, self.version = self.manifest.name, self.manifest.version
        self.classes = tuple(sorted(self.manifest.class_counts))

    def __repr__(self) -> str:
        """Name, version, shape."""
        return f"<medgan {self.name}@{self.version}: {len(self)} synthetic images, classes {', '.join(self.classes)}>"

    def __len__(self) -> int:
        """Images of the split."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint16], int]:
        """Image (H, W) uint16 in stored units and its class index; reads that image alone."""
        label = int(self.class_index[index])
        if "images" in self.__dict__ or self.reader is None:
            return self.images[index], label
        return self.reader.gather([int(self.rows[index])])[0], label

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.uint16], int]]:
        """Every image with its class index, in row order."""
        return (self[index] for index in range(len(self)))

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Row i is image i: `id`, `split`, `class`, and `sex`, `age_band` where synthesised."""
        return self._table if self.split is None else self._table.iloc[self.rows].reset_index(drop=True)

    @cached_property
    def images(self) -> npt.NDArray[np.uint16]:
        """(N, H, W) uint16 in stored units, read once; every chunk's checksum is checked."""
        array: npt.NDArray[np.uint16] = np.asarray(self._array[:]) if self.reader is None else self.reader.read()
        return array if self.split is None else array[self.rows]

    @cached_property
    def structures(self) -> tuple[str, ...]:
        """What masks outline: a mask's value k is `structures[k - 1]`, 0 is background; () of a version without."""
        if not agreement.has_masks(self.manifest):
            return ()
        return agreement.structures(dict(self._mask_array.attrs), self.manifest)

    @cached_property
    def masks(self) -> npt.NDArray[np.uint8]:
        """(N, H, W) uint8, read once; `InvalidRequest` where the version has none."""
        reader = self.mask_reader
        array: npt.NDArray[np.uint8] = np.asarray(self._mask_array[:]) if reader is None else reader.read()
        agreement.mask_values(array, len(self.structures))
        return array if self.split is None else array[self.rows]

    def mask(self, index: int) -> npt.NDArray[np.uint8]:
        """Mask (H, W) uint8 of one image; reads that mask alone. `InvalidRequest` where the version has none."""
        if "masks" in self.__dict__ or self.mask_reader is None:
            held: npt.NDArray[np.uint8] = self.masks[index]
            return held
        found: npt.NDArray[np.uint8] = self.mask_reader.gather([int(self.rows[index])])[0]
        return agreement.mask_values(found, len(self.structures))

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """(len,) int64: the row of the version's array that holds each image of the split."""
        if self.split is None:
            return np.arange(len(self._table))
        splits = self._table["split"]
        rows = np.flatnonzero((splits == self.split).to_numpy())
        if not len(rows):
            known = ", ".join(sorted(set(splits)))
            raise InvalidRequest(f"{self.name}@{self.version} has no split of that name: {known}")
        return rows

    @cached_property
    def reader(self) -> ShardReader | None:
        """The fastest direct reader there is: the materialised tier, else the shards, else None for other layouts."""
        found = self._open(agreement.IMAGES)
        if found is not None:
            agreement.layout(found.layout, self.manifest)
        return found

    @cached_property
    def mask_reader(self) -> ShardReader | None:
        """The same of the masks; `InvalidRequest` where the version has none."""
        array = self._mask_array  # refuses
        found = self._open(agreement.MASKS) if self.reader is not None else None
        if found is not None and self.reader is not None:
            agreement.masks(found.layout, self.reader.layout, self.manifest)
        elif array.shape != self._array.shape:
            raise agreement.disagrees("its masks", self.manifest)
        return found

    def _open(self, name: str) -> ShardReader | None:
        from medgan.client import materialise, shards

        return materialise.open_materialised(self.folder, name) or shards.open_images(self.folder / IMAGES / name)

    def materialise(self) -> Dataset:
        """Write the uncompressed tier beside the version, once, and read from it; see `medgan.client.materialise`."""
        from medgan.client import materialise

        materialise.materialise(self.folder)
        for name in ("reader", "mask_reader"):
            self.__dict__.pop(name, None)
        return self

    def loader(self, *, masks: bool = False, **plan: Any) -> Loader:
        """Batches in this process at memory speed: `batch`, `order`, `seed`, `rank`, `world`, ... of `loader.Plan`.

        With `masks` each batch has them beside its images; `InvalidRequest` where the version has none.
        """
        from medgan.client import loader

        beside = self.mask_reader if masks else None
        if self.reader is None or (masks and beside is None):
            raise InvalidRequest("this version's arrays have another layout: read them with zarr-python")
        keep = np.zeros(len(self.reader), bool)
        keep[self.rows] = True
        return loader.Loader(
            self.reader,
            loader.Plan(**plan),
            keep=None if self.split is None else keep,
            masks=beside,
            structures=0 if beside is None else len(self.structures),
        )

    def montage(self, *, rows: int = 4, columns: int = 8) -> npt.NDArray[np.uint8]:
        """The first images as one uint8 picture, windowed by `intensity_range`."""
        from medgan.client import export

        return export.montage(self, rows=rows, columns=columns)

    def export(
        self, folder: Path | str, form: str = "png", *, on_progress: Callable[[int, int], None] | None = None
    ) -> Path:
        """Write the split into a new folder as `png` (16 bits, a table as `imagefolder` wants), `nifti` or `dicom`.

        Interrupted, the same call goes on; `on_progress(done, total)` counts images.
        """
        from medgan.client import export

        return export.form_named(form)(self, Path(folder), on_progress=on_progress)

    def classes_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Class index (B,) of rows of the version's array, as a loader's batches name them."""
        return self.class_index[np.searchsorted(self.rows, rows)]

    def stream(self, *, masks: bool = False, **plan: Any) -> torch.utils.data.IterableDataset[tuple[torch.Tensor, ...]]:
        """A torch IterableDataset of whole batches for `DataLoader(..., batch_size=None)`; shards over its workers.

        With `masks`: images, masks, class indices.
        """
        from medgan.client.dataset import BatchStream

        return BatchStream(self, masks=masks, **plan)

    @cached_property
    def class_index(self) -> npt.NDArray[np.int64]:
        """(N,) int64, index of each image's class in `classes`."""
        index = {name: position for position, name in enumerate(self.classes)}
        return np.fromiter((index[name] for name in self.labels["class"]), dtype=np.int64, count=len(self.labels))

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """`intensity_range`, `rescale_slope`, `rescale_intercept`, `units`, `spacing_mm` of the array."""
        return agreement.attributes(dict(self._array.attrs), self.manifest)

    def scaled(self, images: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        """Stored values to [-1, 1] by `intensity_range`, float32; values outside the window are clipped."""
        low, high = self.attrs["intensity_range"]
        unit = (images.astype(np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
        return np.clip(unit, -1, 1, out=unit)

    def torch(self, *, masks: bool = False) -> torch.utils.data.Dataset[tuple[Any, ...]]:
        """A torch Dataset of (1, H, W) float32 in [-1, 1] and the class index; imports torch.

        With `masks`: image, mask (H, W) int64 as `cross_entropy` takes it, class index; transforms are the caller's.
        """
        from medgan.client.dataset import TorchDataset

        return TorchDataset(self, masks=masks)

    @cached_property
    def _table(self) -> pd.DataFrame:
        return agreement.table(self.folder / LABELS, self.manifest)

    @cached_property
    def _array(self) -> Any:
        return agreement.array(self.folder / IMAGES, self.manifest)

    @cached_property
    def _mask_array(self) -> Any:
        if not agreement.has_masks(self.manifest):
            raise InvalidRequest(f"{self.name}@{self.version} has no masks: take a version that outlines structures")
        return agreement.array(self.folder / IMAGES, self.manifest, agreement.MASKS)
