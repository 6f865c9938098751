"""Does an image look like those a network has learned from? Descriptors and distances, for refusing what is foreign.

A restorer that never saw a radiograph turns one into something like a brain, with confidence. So each model keeps, of
four descriptions of its training inputs (statistics, the joint histogram of intensity and edge, a thumbnail, and what
a network sees that learned nothing), mean and covariance, and refuses what lies far outside of one of them.
Distances are Mahalanobis' with a shrunk covariance (Lee et al. 2018 use it on features for the same end); limits come
from images of patients that were held out. A restorer's own features would tell strangers only as well as its optimiser
happened to leave them; random ones keep all that an image shows, and nothing in training can spoil them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medgan.gan.restorer import Shape, Unet

Vector = NDArray[np.float64]

_BANDS, _THUMB = 8, 12
_QUANTILES = (5, 25, 50, 75, 95)
_SHRINK = 0.1
_LEAST_VARIANCE = {"statistics": 1e-2, "histogram": 4e-4, "thumbnail": 1e-2, "features": 1e-9}
"""Variances below these say only that the sample was small."""
QUANTILE, _MARGIN = 0.99, 1.25
"""A limit is this quantile of known distances: one sound image of a hundred may be refused."""
_RIDGE = 0.05
"""Share of its variance that each random feature is given more: a few hundred images tell less of narrow directions."""


@cache
def untrained() -> Unet:
    """A network that learned nothing, the same for ever: uniform weights of +-1/sqrt(fan-in) from Philox's raw bits."""
    network = Unet(Shape(blocks=1)).requires_grad_(requires_grad=False)
    bits = np.random.Philox(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            bound = 1 / sqrt(layer.weight[0].numel())
            for weights in (layer.weight, layer.bias):
                raw = np.asarray(bits.random_raw(weights.numel())) >> np.uint64(11)  # 53 bits
                drawn = ((raw * 2.0**-52 - 1) * bound).astype(np.float32)
                weights.copy_(torch.from_numpy(drawn).view_as(weights))
    return network


def describe(image_HW: NDArray[np.float32]) -> dict[str, Vector]:
    """Descriptions of an image in [-1, 1] (sides of at least 8 px), none of which depends much on its size."""
    features = untrained().features(image_HW)
    image = np.clip(np.asarray(image_HW, np.float64), -1.5, 1.5)
    height, width = image.shape
    gradient = np.hypot(*(np.diff(image, axis=axis)[: height - 1, : width - 1] for axis in (0, 1)))
    return {
        "statistics": _statistics(image, gradient),
        "histogram": _histogram(image[: height - 1, : width - 1], gradient),
        "thumbnail": _means(image, _THUMB).ravel(),
        "features": features,
    }


def _statistics(image: Vector, gradient: Vector) -> Vector:
    height, width = image.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) * 2
    edges = np.geomspace(0.02, 1.0, _BANDS + 1)
    total = power.sum() + 1e-12
    bands = [power[(radius >= low) & (radius < high)].sum() / total for low, high in pairwise(edges)]
    rim = max(1, min(height, width) // 16)
    sides = [image[:rim].mean(), image[-rim:].mean(), image[:, :rim].mean(), image[:, -rim:].mean()]
    return np.array(
        [
            *np.log10(np.maximum(bands, 1e-6)),
            *np.percentile(image, _QUANTILES),
            *np.log10(np.percentile(gradient, (50, 75, 90, 99)) + 1e-3),
            *sides,
            image.mean(),
            image.std(),
        ]
    )


def _histogram(image: Vector, gradient: Vector) -> Vector:
    """Square roots of shares in 10 intensities x 5 strengths of edge (Hellinger's geometry)."""
    counts, _, _ = np.histogram2d(
        np.clip(image.ravel(), -1, 1),
        np.log10(np.clip(gradient.ravel(), 1e-3, 2)),
        bins=(np.linspace(-1, 1, 11), np.array([-3.1, -1.75, -1.25, -0.9, -0.5, 0.4])),
    )
    out: Vector = np.sqrt(counts.ravel() / counts.sum())
    return out


def _means(image: Vector, size: int) -> Vector:
    """(size, size) means of equal parts of the image; pixels of one with fewer a side stand for several."""
    times = -(-size // min(image.shape))
    image = image.repeat(times, 0).repeat(times, 1)
    rows, columns = (np.linspace(0, length, size + 1).astype(int) for length in image.shape)
    summed = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    summed[1:, 1:] = image.cumsum(0).cumsum(1)
    block = np.diff(np.diff(summed[np.ix_(rows, columns)], axis=0), axis=1)
    out: Vector = block / np.outer(np.diff(rows).astype(np.float64), np.diff(columns))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One description's mean (D,), inverse covariance (D, D), and the distance at which a held-out image may lie."""

    mean: Vector
    inverse: Vector
    limit: float

    def distance(self, one: Vector) -> float:
        """Mahalanobis distance divided by the limit."""
        return _distance(one, self.mean, self.inverse) / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Familiar:
    """What is familiar to a model; `limit` is 1: distances count in units of what is allowed."""

    parts: dict[str, Part]
    limit: float = 1.0

    def distance(self, image_HW: NDArray[np.float32]) -> float:
        """The largest of the descriptions' distances, 1 being the limit."""
        described = describe(image_HW)
        return max(part.distance(described[name]) for name, part in self.parts.items())

    def as_json(self) -> dict[str, Any]:
        """For the model's description."""
        return {
            name: {"mean": part.mean.tolist(), "inverse": np.round(part.inverse, 9).tolist(), "limit": part.limit}
            for name, part in self.parts.items()
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Familiar:
        """Inverse of `as_json`."""
        parts = {
            name: Part(mean=np.array(one["mean"]), inverse=np.array(one["inverse"]), limit=float(one["limit"]))
            for name, one in value.items()
        }
        return cls(parts=parts)


def learn(seen: list[dict[str, Vector]], held_out: list[dict[str, Vector]]) -> Familiar:
    """From descriptions of training inputs and of inputs of held-out patients."""
    parts = {}
    for name, least in _LEAST_VARIANCE.items():
        table = np.array([one[name] for one in seen])
        mean = table.mean(0)
        width = len(mean)
        covariance = np.cov(table, rowvar=False) if len(table) > 1 else np.zeros((width, width))
        kept, added = (1.0, _RIDGE) if name == "features" else (1 - _SHRINK, _SHRINK)
        shrunk = kept * covariance + added * np.diag(np.diag(covariance)) + least * np.eye(width)
        inverse: Vector = np.linalg.inv(shrunk).astype(np.float64)
        ours, theirs = ([_distance(one[name], mean, inverse) for one in part] for part in (seen, held_out))
        limit = _limit_of_features(ours, theirs) if name == "features" else _limit([*ours, *theirs])
        parts[name] = Part(mean=mean, inverse=inverse, limit=limit)
    return Familiar(parts=parts)


def _limit(known: list[float]) -> float:
    """Other scanners are farther than other patients: a margin, and never below what few images leave unknown."""
    return _MARGIN * max(float(np.quantile(known, QUANTILE)), 1.0)


def _limit_of_features(ours: list[float], theirs: list[float]) -> float:
    """Patients that were held out say how far sound images lie: the covariance was fitted to the others.

    Few of them know little of a quantile: a margin that falls with their number.
    """
    margin = 1 + 1.5 / sqrt(len(theirs))
    return max(margin * float(np.quantile(theirs, QUANTILE)), float(np.quantile(ours, QUANTILE)))


def _distance(one: Vector, mean: Vector, inverse: Vector) -> float:
    shift = one - mean
    return float(np.sqrt(max(float(shift @ inverse @ shift), 0.0) / len(mean)))
