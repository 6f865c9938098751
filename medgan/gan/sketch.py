"""Where a generator starts: a coarse picture drawn from the means and covariances of the class's own images.

A generator that starts from nothing has seen some ten thousand images before the pictures of a class differ at all,
and in a short run they never do. Here each latent is first a coarse picture (16 px a side), which the ladder reads
half-way up and paints over. Variety is there before the first step and would have to be unlearned.

The pictures of a class are no single cloud: hands point everywhere, heads are cut at the eyes or at the crown. So a
class is halved, at the median of its first principal component, and each half again; every group is drawn from the
normal distribution that has its mean and principal components (a mixture of such clouds loses no mode: Richardson and
Weiss 2018). Groups are equally large, so the signs of the first latents choose one. The statistics are those of the
training set, fixed once.

Legend: N images, Z latents, K rows: the groups of every class, then those of the null condition (all images), P pixels
of the coarse picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, mse_loss

from medgan.gan.conditions import LEAST_PATIENTS
from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet, to_unit
from medgan.gan.layers import same

SIDE = 16
HALF_WAY = 2
"""Index of the ladder's stage of 16 px."""
_MOST = 4096
_EACH = 16
"""Patients behind a component at least: components of a few people would be those people."""
_TOGETHER = 256
"""Patients in a group at least: the smaller groups are, the nearer their clouds lie to their people."""
EDGE = 0.97
"""Pictures are kept within this before they are taken back through the last tanh."""


class Sketch(nn.Module):
    """Latents and classes to coarse pictures; flat grey until `learn` has seen a training set."""

    mean: Tensor
    basis: Tensor
    widen: Tensor

    def __init__(self, classes: int, config: TrainConfig) -> None:
        """Room for the statistics of `classes` classes and of all images, `config.sketch` groups each."""
        super().__init__()
        self.dims = dims = config.dims
        self.halvings = config.sketch.bit_length() - 1
        size_px, rows = config.size_px, (classes + 1) << self.halvings
        self.read = same(1, config.widths[HALF_WAY], dims)
        self.register_buffer("mean", torch.zeros(rows, SIDE**dims))
        self.register_buffer("basis", torch.zeros(rows, config.latent_dim, SIDE**dims))
        self.register_buffer("widen", torch.from_numpy(_bilinear(SIDE, size_px)), persistent=False)

    def forward(self, z_NZ: Tensor, class_N: Tensor) -> tuple[Tensor, Tensor]:
        """What the ladder reads half-way (N, width, 16, 16), and what it paints over (N, 1, size, size)."""
        with torch.autocast(z_NZ.device.type, enabled=False):
            coarse = self.pictures(z_NZ, class_N)
            return self.read(coarse), self.ground(coarse)

    def pictures(self, z_NZ: Tensor, class_N: Tensor) -> Tensor:
        """Coarse pictures (N, 1, 16, 16), or (N, 1, 16, 16, 16)."""
        row_N = self.row(z_NZ, class_N)
        flat_NP = self.mean[row_N] + torch.einsum("nz,nzp->np", z_NZ, self.basis[row_N])
        return flat_NP.view(-1, 1, *[SIDE] * self.dims)

    def row(self, z_NZ: Tensor, class_N: Tensor) -> Tensor:
        """Which group each latent is drawn from: its first numbers' signs, the first halving in front."""
        row_N = class_N
        for halving in range(self.halvings):
            row_N = 2 * row_N + (z_NZ[:, halving] > 0)
        return row_N

    def ground(self, coarse: Tensor) -> Tensor:
        """The picture at full size, before the last tanh."""
        x = coarse
        for axis in range(2, 2 + self.dims):
            x = torch.tensordot(x, self.widen, ([axis], [1])).movedim(-1, axis)
        return x.clamp(-EDGE, EDGE).atanh()

    def strayed(self, x: Tensor, z_NZ: Tensor, class_N: Tensor) -> Tensor:
        """How far images (N, 1, size, size) lie from the coarse pictures they were painted over: a mean square."""
        blocks = avg_pool2d if self.dims == 2 else avg_pool3d  # noqa: PLR2004 - flat images
        with torch.no_grad():
            meant = self.pictures(z_NZ, class_N).clamp(-1, 1)
        return mse_loss(blocks(x, x.shape[-1] // SIDE), meant)

    def learn(self, images: TrainingSet) -> None:
        """Take the statistics of each class, of up to 4,096 evenly spaced images, and of as many of all.

        A class of fewer than eleven patients would show people: it gets the statistics of all, and where there are
        fewer than eleven in all nothing is taken.
        """
        everybody = np.arange(len(images.class_index))
        if images.people(everybody) < LEAST_PATIENTS:
            return
        classes = [np.flatnonzero(images.class_index == k) for k in range(len(images.classes))]
        row = 0
        for rows in [*classes, everybody]:
            told = rows if images.people(rows) >= LEAST_PATIENTS else everybody
            told = told[np.linspace(0, len(told) - 1, min(len(told), _MOST)).round().astype(np.int64)]
            for part, x_NP in _halved(images, told, _coarse(images, told), self.halvings):
                most = min(self.basis.shape[1] - self.halvings, images.people(part) // _EACH)
                self.mean[row], basis = _components(x_NP, most)
                self.basis[row, self.halvings : self.halvings + len(basis)] = basis
                row += 1


def _coarse(images: TrainingSet, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Images (n, P) in [-1, 1], averaged over blocks."""
    dims, block = images.dims, images.pixels.shape[1] // SIDE
    means = []
    for part in np.array_split(rows, -(-len(rows) // 64)):  # from a memory map, a little at a time
        blocks = to_unit(images.pixels[part], images.lo, images.hi).reshape(len(part), *[SIDE, block] * dims)
        means.append(blocks.mean(tuple(range(2, 2 * dims + 1, 2)), dtype=np.float64).reshape(len(part), -1))
    return np.concatenate(means)


def _halved(
    images: TrainingSet, rows: NDArray[np.int64], x_NP: NDArray[np.float64], times: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """2^times groups of rows and their pictures; what is too small to be halved stands for all of its groups."""
    if times:
        mean, axis = _components(x_NP, 1)
        place_N = (x_NP - mean.numpy()) @ axis[0].numpy()
        halves = np.array_split(np.argsort(place_N, kind="stable"), 2)
        if min(images.people(rows[half]) for half in halves) >= _TOGETHER:
            for half in halves:
                yield from _halved(images, rows[half], x_NP[half], times - 1)
            return
    yield from [(rows, x_NP)] * 2**times


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
