"""A version as a torch `Dataset`; the only module of the client that imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from medgan.client.load import Dataset


class TorchDataset(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Image (1, H, W) float32 in [-1, 1] and class index; `classes` names the indices."""

    def __init__(self, dataset: Dataset) -> None:
        """Wrap an opened version."""
        self.dataset = dataset
        self.classes = dataset.classes

    def __len__(self) -> int:
        """Images of the split."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One image and its class index."""
        image, label = self.dataset[index]
        return torch.from_numpy(self.dataset.scaled(image[None])), label


class BatchStream(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batches (B, 1, H, W) float32 in [-1, 1] and class indices (B,) int64, one epoch an iteration.

    With `DataLoader(stream, batch_size=None, num_workers=W)` each worker walks its own chunks; with several
    ranks pass `rank` and `world`. `set_epoch` decides the order; without it every iteration is the next epoch.
    """

    def __init__(self, dataset: Dataset, **plan: Any) -> None:
        """Stream `dataset` by the fields of `medgan.client.loader.Plan`."""
        self.dataset, self.plan, self.epoch = dataset, plan, 0
        self.dataset.loader(**plan)  # refuses a bad plan here, not in a worker

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of this rank and worker."""
        worker = torch.utils.data.get_worker_info()
        mine, among = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world = int(self.plan.get("rank", 0)), int(self.plan.get("world", 1))
        loader = self.dataset.loader(**self.plan | {"rank": rank * among + mine, "world": world * among})
        loader.epoch = self.epoch
        self.epoch += 1
        for batch in loader:
            images = torch.from_numpy(self.dataset.scaled(batch.images)[:, None])
            yield images, torch.from_numpy(self.dataset.classes_of(batch.rows))
