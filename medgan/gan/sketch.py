"""Where a generator starts: a coarse picture drawn from the class's own mean and covariance.

A generator that starts from nothing has seen some ten thousand images before the pictures of a class differ at all,
and in a short run they never do. Here each latent is first a coarse picture (16 px a side) of the normal distribution
that has the class's mean and principal components; the ladder reads it half-way up and paints over it. Variety is
there before the first step and would have to be unlearned. The statistics are those of the training set, fixed once.

Legend: N images, Z latents, K classes and the null condition (all images), P pixels of the coarse picture.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgan.gan.conditions import LEAST_PATIENTS
from medgan.gan.images import TrainingSet, to_unit
from medgan.gan.layers import same

SIDE = 16
_MOST = 4096
_EACH = 16
"""Patients behind a component at least: components of a few people would be those people."""
EDGE = 0.97
"""Pictures are kept within this before they are taken back through the last tanh."""


class Sketch(nn.Module):
    """Latents and classes to coarse pictures; flat grey until `learn` has seen a training set."""

    mean: Tensor
    basis: Tensor
    widen: Tensor

    def __init__(self, classes: int, latent_dim: int, size_px: int, width: int, dims: int) -> None:
        """Room for the statistics of `classes` classes and of all images; the ladder has `width` channels half-way."""
        super().__init__()
        self.dims = dims
        self.read = same(1, width, dims)
        self.register_buffer("mean", torch.zeros(classes + 1, SIDE**dims))
        self.register_buffer("basis", torch.zeros(classes + 1, latent_dim, SIDE**dims))
        self.register_buffer("widen", torch.from_numpy(_bilinear(SIDE, size_px)), persistent=False)

    def forward(self, z_NZ: Tensor, class_N: Tensor) -> tuple[Tensor, Tensor]:
        """What the ladder reads half-way (N, width, 16, 16), and what it paints over (N, 1, size, size)."""
        with torch.autocast(z_NZ.device.type, enabled=False):
            coarse = self.pictures(z_NZ, class_N)
            return self.read(coarse), self.ground(coarse)

    def pictures(self, z_NZ: Tensor, class_N: Tensor) -> Tensor:
        """Coarse pictures (N, 1, 16, 16), or (N, 1, 16, 16, 16)."""
        flat_NP = self.mean[class_N] + torch.einsum("nz,nzp->np", z_NZ, self.basis[class_N])
        return flat_NP.view(-1, 1, *[SIDE] * self.dims)

    def ground(self, coarse: Tensor) -> Tensor:
        """The picture at full size, before the last tanh."""
        x = coarse
        for axis in range(2, 2 + self.dims):
            x = torch.tensordot(x, self.widen, ([axis], [1])).movedim(-1, axis)
        return x.clamp(-EDGE, EDGE).atanh()

    def learn(self, images: TrainingSet) -> None:
        """Take the statistics of each class, of up to 4,096 evenly spaced images, and of as many of all.

        A class of fewer than eleven patients would show people: it gets the statistics of all, and where there are
        fewer than eleven in all nothing is taken.
        """
        everybody = np.arange(len(images.class_index))
        if images.people(everybody) < LEAST_PATIENTS:
            return
        groups = [np.flatnonzero(images.class_index == k) for k in range(len(self.mean) - 1)]
        for k, rows in enumerate([*groups, everybody]):
            told = rows if images.people(rows) >= LEAST_PATIENTS else everybody
            mean, basis = _components(_coarse(images, told), min(self.basis.shape[1], images.people(told) // _EACH))
            self.mean[k] = mean
            self.basis[k, : len(basis)] = basis


def _coarse(images: TrainingSet, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Images (n, P) in [-1, 1], averaged over blocks."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).round().astype(np.int64)]
    dims, block = images.dims, images.pixels.shape[1] // SIDE
    means = []
    for part in np.array_split(chosen, -(-len(chosen) // 64)):  # from a memory map, a little at a time
        blocks = to_unit(images.pixels[part], images.lo, images.hi).reshape(len(part), *[SIDE, block] * dims)
        means.append(blocks.mean(tuple(range(2, 2 * dims + 1, 2)), dtype=np.float64).reshape(len(part), -1))
    return np.concatenate(means)


def _components(x_NP: NDArray[np.float64], count: int) -> tuple[Tensor, Tensor]:
    """Mean (P,) and the first principal components (count, P), each as long as its standard deviation."""
    x = torch.from_numpy(x_NP)
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).mT @ (x - mean) / len(x))  # ascending
    basis = (values.clamp_min(0).sqrt() * vectors).flip(1)[:, :count].mT
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return mean.float(), (basis * largest.sign()).float()


def _bilinear(small: int, large: int) -> NDArray[np.float32]:
    """Interpolation matrix (large, small) between pixel centres, edges continued."""
    place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(small))).astype(np.float32)
    return weights
