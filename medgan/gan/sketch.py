"""Where a generator starts: a coarse picture drawn from the means and covariances of the class's own images.

A generator that starts from nothing has seen some ten thousand images before the pictures of a class differ at all,
and in a short run they never do. Here each latent is first a coarse picture (16 px a side), which the ladder reads
half-way up and paints over. Variety is there before the first step and would have to be unlearned.

The pictures of a class are no single cloud: hands point everywhere, heads are cut at the eyes or at the crown. So a
class is halved, at the median image along its first principal component, and each half again; every group is drawn
from the normal distribution that has its mean and principal components (a mixture of such clouds loses no mode:
Richardson and Weiss 2018). Groups are equally large, so the signs of the first latents choose one. The statistics
are those of the training set, fixed once.

Legend: N images, Z latents, K rows: the groups of every class, then those of the null condition (all images), P pixels
of the coarse picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d

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
_ENOUGH = 16
"""Components from which on images are held to their sketch in full: fewer do not say how pictures differ."""
_MOST_OWED = 0.25
"""Of a component's variance, to one patient: one strange image would be a component of its own."""
_TOGETHER = 256
"""Patients in a group at least: the smaller groups are, the nearer their clouds lie to their people."""
EDGE = 0.97
"""Pictures are kept within this before they are taken back through the last tanh."""


class Sketch(nn.Module):
    """Latents and classes to coarse pictures; flat grey until `learn` has seen a training set."""

    mean: Tensor
    basis: Tensor
    trust: Tensor
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
        self.register_buffer("trust", torch.zeros(rows), persistent=False)
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
        """How far images (N, 1, size, size) lie from the coarse pictures they were painted over: a mean square.

        An image counts as far as its group's sketch says how pictures differ: not at all where it is borrowed.
        """
        blocks = avg_pool2d if self.dims == 2 else avg_pool3d  # noqa: PLR2004 - flat images
        with torch.no_grad():
            meant = self.pictures(z_NZ, class_N).clamp(-1, 1)
            trust_N = self.trust[self.row(z_NZ, class_N)]
        apart_N = (blocks(x, x.shape[-1] // SIDE) - meant).square().flatten(1).mean(1)
        return (trust_N * apart_N).mean()

    def learn(self, images: TrainingSet) -> None:
        """Take the statistics of each class, of up to 4,096 evenly spaced images, and of as many of all.

        A class of fewer than eleven patients would show people: it gets the statistics of the others, which it has no
        part in, so that no subtraction uncovers it. Where no class has eleven, all classes get those of all images,
        and where there are fewer than eleven in all nothing is taken.
        """
        classes = [_spaced(np.flatnonzero(images.class_index == k)) for k in range(len(images.classes))]
        told = [images.people(rows) >= LEAST_PATIENTS for rows in classes]
        parts = [np.flatnonzero(images.class_index == k) for k, shown in enumerate(told) if shown]
        others = _spaced(np.sort(np.concatenate(parts)) if parts else np.arange(len(images.class_index)))
        if images.people(others) < LEAST_PATIENTS:
            return
        row = 0
        for rows, own in [*zip(classes, told, strict=True), (others, True)]:
            for group in _groups(images, rows if own else others, self.halvings):
                most = min(self.basis.shape[1] - self.halvings, images.people(group.rows) // _EACH)
                mean, basis = group.components(most)
                for _ in range(group.times):
                    self.mean[row] = mean
                    self.basis[row, self.halvings : self.halvings + len(basis)] = basis
                    self.trust[row] = own * min(1.0, len(basis) / _ENOUGH)
                    row += 1


@dataclass(frozen=True)
class _Group:
    """rows: which images. person: whose each is, from 0. pictures: theirs (N, P). times: groups that it is."""

    rows: NDArray[np.int64]
    person: NDArray[np.int64]
    pictures: NDArray[np.float64]
    times: int

    def components(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean (P,) and up to `count` first principal components, each as long as its standard deviation.

        Every patient weighs as much as any other. A component that owes more than a quarter to one patient is left out.
        """
        x, person = torch.from_numpy(self.pictures), torch.from_numpy(self.person)
        weight = 1 / torch.bincount(person)[person].double()
        weight /= weight.sum()
        mean = weight @ x
        apart = (x - mean) * weight.sqrt()[:, None]
        values, vectors = torch.linalg.eigh(apart.mT @ apart)  # ascending
        vectors = vectors.flip(1)[:, :count]
        owed = torch.zeros(int(person.max()) + 1, vectors.shape[1], dtype=x.dtype)
        owed.index_add_(0, person, (apart @ vectors).square())
        shared = owed.amax(0) <= _MOST_OWED * owed.sum(0)
        basis = (values.clamp_min(0).sqrt().flip(0)[:count] * vectors)[:, shared].mT
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        return mean.float(), (basis * largest.sign()).float()

    def halved(self) -> list[_Group]:
        """Two groups, apart at the median image along the first component; one where a half has too few patients."""
        _, axis = self.components(1)
        if not len(axis) or self.times == 1:
            return [self]
        order = np.argsort(self.pictures @ axis[0].double().numpy(), kind="stable")
        halves = np.array_split(order, 2)
        if min(len(np.unique(self.person[half])) for half in halves) < _TOGETHER:
            return [self]
        return [_Group(self.rows[half], self.person[half], self.pictures[half], self.times // 2) for half in halves]


def _groups(images: TrainingSet, rows: NDArray[np.int64], halvings: int) -> list[_Group]:
    """The groups that the images of these rows fall into; together they stand for 2^halvings."""
    person_N = np.arange(len(rows)) if images.patients is None else _counted(images.patients[rows])
    groups = [_Group(rows, person_N, _coarse(images, rows), 2**halvings)]
    for _ in range(halvings):
        groups = [half for group in groups for half in group.halved()]
    return groups


def _counted(whose: NDArray[Any]) -> NDArray[np.int64]:
    return np.unique(whose, return_inverse=True)[1].astype(np.int64)


def _spaced(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Up to 4,096 of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).round().astype(np.int64)]


def _coarse(images: TrainingSet, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Images (n, P) in [-1, 1], averaged over blocks."""
    dims, block = images.dims, images.pixels.shape[1] // SIDE
    means = []
    for part in np.array_split(rows, -(-len(rows) // 64)):  # from a memory map, a little at a time
        blocks = to_unit(images.pixels[part], images.lo, images.hi).reshape(len(part), *[SIDE, block] * dims)
        means.append(blocks.mean(tuple(range(2, 2 * dims + 1, 2)), dtype=np.float64).reshape(len(part), -1))
    return np.concatenate(means)


def _bilinear(small: int, large: int) -> NDArray[np.float32]:
    """Interpolation matrix (large, small) between pixel centres, edges continued."""
    place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(small))).astype(np.float32)
    return weights
