"""A version as a torch `Dataset`; the only module of the client that imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
