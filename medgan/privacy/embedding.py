"""Linear embeddings in which a copy stays near its original and two people stay apart.

E1 is correlation over the leading principal components, mildly whitened: it looks at coarse form and does not mind
noise. E2 is learned from the images themselves: generalised eigenvectors of all variation against the variation that
the gate's own changes make (Fisher's discriminant with one class an image), which is contrastive learning for a
linear encoder, solved exactly: it minds detail and does not mind gamma, zoom, rotation or a blend.

E3, where patients have two images or more, is learned the same way from pairs of images of one patient: it minds what
stays from one exposure of a person to the next.

E1 and E2 are fitted on train, holdout and synthetic images together, so that none lies nearer by construction: images
that a whitening has seen are pushed apart by it, and with 800 of them those it has not seen look like copies. What all
synthetic images have in common (a checkerboard) is left out: it would become a direction that tells real from
synthetic, along which every copy lies far from its original.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage

from medgan.privacy.views import Images, Views, changed, unit
from medgan.privacy.warps import Warp, matrix

Vectors = npt.NDArray[np.float32]

E1_WHITENING, E2_WHITENING = 0.25, 0.75
_KEPT_WARPS = 16
_SMALL_PX = 32
"""Views up to this size: 32 + 240 dimensions, larger ones 64 + 256. Of blends, which need most, 160 find half
on Fashion-MNIST at 28 px (240: 73 %) and on MedNIST at 64 px; noisy copies are found by the coarse ones."""
_E3_DIMENSIONS = 48
_FIT_IMAGES, _BLOCK = 3000, 4096
MOST_IMAGES = 10_000
"""More images do not move the eigenvectors that are kept, and their float64 rows would fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """`projection` (K, P) float32 of the inner window, `offset` (K,), and the bands of rows that are one embedding."""

    size: int
    projection: Vectors
    offset: Vectors
    bands: tuple[tuple[str, int, int], ...]
    _warped: dict[Warp, Vectors] = field(default_factory=dict, repr=False, compare=False)

    def vectors(self, units_NP: Vectors, warp: Warp) -> dict[str, Vectors]:
        """(N, size^2) unit rows seen through `warp`, as one (N, k) float32 array of unit rows a band."""
        warped = self._warped.get(warp)  # threads share the cache, so what it held a moment ago may be gone
        if warped is None:
            warped = np.asarray(matrix(warp, self.size).T @ self.projection.T, dtype=np.float32)
            if self.size > _SMALL_PX and len(self._warped) >= _KEPT_WARPS:
                self._warped.clear()  # megabytes each, and callers go warp by warp
            self._warped[warp] = warped
        raw_NK = units_NP @ warped - self.offset
        return {name: _unit_rows(raw_NK[:, start:stop]) for name, start, stop in self.bands}

    def unwarped(self, images_NHW: Views, *wanted: str) -> dict[str, Vectors]:
        """(N, k) float32 unit rows of each wanted band, or of all, of images (N, S, S) as they are.

        In blocks, since `unit` copies its own; of bands that are not wanted no more than a block is ever held.
        """
        parts: dict[str, list[Vectors]] = {name: [] for name in wanted or [name for name, _, _ in self.bands]}
        for start in range(0, max(1, len(images_NHW)), _BLOCK):
            vectors = self.vectors(unit(images_NHW[start : start + _BLOCK]), Warp())
            for name, held in parts.items():
                held.append(vectors[name])
        return {name: np.concatenate(held) for name, held in parts.items()}

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the weights, rounded so that a different summation order does not show."""
        return hashlib.sha256(np.round(self.projection, 2).astype("<f4").tobytes()).hexdigest()


def fit(
    images_NHW: Images, *, seed: int, synthetic: int = 0, same_patient: tuple[Images, Images] | None = None
) -> Embedding:
    """Learn E1 and E2 from all images that will be compared, and E3 from pairs (n, S, S) of images of one patient.

    The last `synthetic` of the images are no real ones.
    """
    size = images_NHW.shape[1]
    window = matrix(Warp(), size)
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x656D62]))
    rows = np.sort(rng.permutation(len(images_NHW))[:MOST_IMAGES])
    most, made = images_NHW[rows], rows >= len(images_NHW) - synthetic
    seen_NP = (window @ unit(most).T).T.astype(np.float64)
    mean_P = seen_NP.mean(axis=0)
    for part in (~made, made):
        seen_NP[part] -= seen_NP[part].sum(axis=0) / max(1, part.sum())
    total_PP = seen_NP.T @ seen_NP / len(seen_NP)
    sample = images_NHW[np.sort(rng.permutation(len(images_NHW))[:_FIT_IMAGES])]
    before_NP, after_NP = _pairs(sample, rng)
    moved_NP = (after_NP - before_NP).astype(np.float64)
    within_PP = moved_NP.T @ moved_NP / len(moved_NP)
    rank = max(2, min(len(most) - 1, total_PP.shape[0]) // 2)
    dimensions = (32, 240) if size <= _SMALL_PX else (64, 256)
    coarse = _principal(total_PP, min(dimensions[0], rank))
    fine = _discriminant(total_PP, within_PP, min(dimensions[1], rank))
    parts = [coarse, fine]
    if same_patient is not None:
        first, second = ((window @ unit(images).T).T.astype(np.float64) for images in same_patient)
        apart_PP = (first - second).T @ (first - second) / len(first) + within_PP
        parts.append(_discriminant(total_PP, apart_PP, min(_E3_DIMENSIONS, rank, len(first))))
    projection = np.concatenate(parts)
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    return Embedding(
        size=size,
        projection=projection.astype(np.float32),
        offset=(projection @ mean_P).astype(np.float32),
        bands=tuple(zip(("E1", "E2", "E3"), ends[:-1], ends[1:], strict=False)),
    )


def _principal(total_PP: npt.NDArray[np.float64], dimensions: int) -> npt.NDArray[np.float64]:
    """(k, P) leading principal directions, scaled by variance^-E1_WHITENING/2."""
    last = len(total_PP) - 1
    values, vectors = linalg.eigh(total_PP, subset_by_index=(last - dimensions + 1, last))
    values, vectors = np.maximum(values[::-1], 1e-9), _signed(vectors[:, ::-1])
    scaled: npt.NDArray[np.float64] = vectors / values ** (E1_WHITENING / 2)
    return scaled.T


def _discriminant(
    total_PP: npt.NDArray[np.float64], within_PP: npt.NDArray[np.float64], dimensions: int
) -> npt.NDArray[np.float64]:
    """(k, P) directions of the largest total variance a unit of `within` variance, scaled by ratio^-E2_WHITENING/2."""
    ridge = 1e-3 * np.trace(within_PP) / len(within_PP)
    last = len(total_PP) - 1
    held_PP = within_PP + ridge * np.eye(last + 1)
    values, vectors = linalg.eigh(total_PP, held_PP, subset_by_index=(last - dimensions + 1, last))
    values, vectors = np.maximum(values[::-1], 1e-9), _signed(vectors[:, ::-1])
    scaled: npt.NDArray[np.float64] = vectors / (1 + values) ** (E2_WHITENING / 2)
    return scaled.T


def _pairs(images: Images, rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Views (n, P) of real images and of the same images after one random change and a random small warp."""
    size, parts = images.shape[1], 60
    reach = 0.7 if size <= _SMALL_PX else 0.5  # units; what lies between two warps of `aligned_warps`
    copies = np.array(images)
    fifth = len(images) // 5
    copies[:fifth] = changed("blend 30 %", images[:fifth], rng)
    copies[fifth : 2 * fifth] **= rng.uniform(0.7, 1.4, (fifth, 1, 1))
    copies[2 * fifth : 3 * fifth] = ndimage.gaussian_filter(images[2 * fifth : 3 * fifth], (0, 0.7, 0.7))
    copies[3 * fifth :] = changed("noise 5 %", images[3 * fifth :], rng)
    before = (matrix(Warp(), size) @ unit(images).T).T
    units = unit(copies)
    after = np.empty_like(before)
    for part in range(parts):
        jitter = Warp(
            angle=rng.uniform(-3, 3),
            step=rng.uniform(0.96, 1.04),
            dy=rng.uniform(-reach, reach),
            dx=rng.uniform(-reach, reach),
        )
        after[part::parts] = (matrix(jitter, size) @ units[part::parts].T).T
    return before, after


def _signed(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Columns with their largest entry positive, since an eigenvector's sign is arbitrary."""
    largest = np.abs(vectors).argmax(axis=0)
    signed: npt.NDArray[np.float64] = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return signed


def _unit_rows(rows: Vectors) -> Vectors:
    norms = np.sqrt(np.einsum("nk,nk->n", rows, rows))[:, None]
    return np.ascontiguousarray(rows / np.maximum(norms, 1e-9), dtype=np.float32)
