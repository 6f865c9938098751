"""A version as a torch `Dataset`; the only module of the client that imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from medgan.client.load import Dataset


class TorchDataset(torch.utils.data.Dataset[tuple[Any, ...]]):
    """Image (1, H, W) float32 in [-1, 1] and class index; `classes` names the indices.

    With `masks`: image, mask (H, W) int64, class index; `structures` names the values of a mask from 1.
    """

    def __init__(self, dataset: Dataset, *, masks: bool = False) -> None:
        """Wrap an opened version."""
        self.dataset = dataset
        self.classes, self.masks = dataset.classes, masks
        self.structures = dataset.structures if masks else ()
        if masks:
            _ = dataset.mask_reader  # refused here where there are none, not in a worker

    def __len__(self) -> int:
        """Images of the split."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """One image, its mask where wanted, and its class index."""
        image, label = self.dataset[index]
        unit = torch.from_numpy(self.dataset.scaled(image[None]))
        if not self.masks:
            return unit, label
        return unit, torch.from_numpy(self.dataset.mask(index).astype(np.int64)), label


class BatchStream(torch.utils.data.IterableDataset[tuple[torch.Tensor, ...]]):
    """Batches (B, 1, H, W) float32 in [-1, 1] and class indices (B,) int64, one epoch an iteration.

    With `masks` there are (B, H, W) int64 between the two.

    With `DataLoader(stream, batch_size=None, num_workers=W)` each worker walks its own chunks; with several
    ranks pass `rank` and `world`. `set_epoch` decides the order; without it every iteration is the next epoch.
    """

    def __init__(self, dataset: Dataset, *, masks: bool = False, **plan: Any) -> None:
        """Stream `dataset` by the fields of `medgan.client.loader.Plan`."""
        self.dataset, self.plan, self.epoch = dataset, {"masks": masks} | plan, 0
        self.dataset.loader(**self.plan)  # refuses a bad plan here, not in a worker

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of this rank and worker."""
        worker = torch.utils.data.get_worker_info()
        mine, among = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world = int(self.plan.get("rank", 0)), int(self.plan.get("world", 1))
        loader = self.dataset.loader(**self.plan | {"rank": rank * among + mine, "world": world * among})
        loader.epoch = self.epoch
        self.epoch += 1
        for batch in loader:
            images = torch.from_numpy(self.dataset.scaled(batch.images)[:, None])
            labels = torch.from_numpy(self.dataset.classes_of(batch.rows))
            if batch.masks is None:
                yield images, labels
            else:
                yield images, torch.from_numpy(batch.masks.astype(np.int64)), labels
