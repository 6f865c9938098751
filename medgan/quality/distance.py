"""Distances between two samples of vectors, in float64: Fréchet, kernel, sliced Wasserstein.

Legend: a_NF, b_MF are feature vectors, rows are images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def frechet(a_NF: Matrix, b_MF: Matrix) -> float:
    """Squared Fréchet distance of two Gaussians fitted to the samples (Dowson and Landau 1982; Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), unbiased covariances, by symmetric eigenvalues.
    """
    a_NF, b_MF = np.asarray(a_NF, np.float64), np.asarray(b_MF, np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a_NF, b_MF))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0, None)).sum()
    shift = a_NF.mean(0) - b_MF.mean(0)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel(a_NF: Matrix, b_MF: Matrix, *, subsets: int = 100, size: int = 500, seed: int = 0) -> tuple[float, float]:
    """KID: unbiased squared MMD with the kernel (x.y/F + 1)^3, (mean, standard deviation) over random subsets.

    Binkowski et al. 2018, section 4.
    """
    rng = np.random.default_rng(seed)
    size = min(size, len(a_NF), len(b_MF))
    values = [
        _mmd2(a_NF[rng.choice(len(a_NF), size, replace=False)], b_MF[rng.choice(len(b_MF), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def _mmd2(a_NF: Matrix, b_NF: Matrix) -> float:
    count, width = a_NF.shape

    def k(x: Matrix, y: Matrix) -> Matrix:
        cubed: Matrix = (x @ y.T / width + 1) ** 3
        return cubed

    within = sum(k(x, x).sum() - _own(x) for x in (a_NF, b_NF)) / (count * (count - 1))
    return float(within - 2 * k(a_NF, b_NF).mean())


def _own(x_NF: Matrix) -> float:
    """Sum of the kernel of every row with itself."""
    return float(((np.einsum("nf,nf->n", x_NF, x_NF) / x_NF.shape[1] + 1) ** 3).sum())


def wasserstein(a_N: Matrix, b_M: Matrix, *, quantiles: int = 2000) -> float:
    """First Wasserstein distance of two samples of numbers, in their unit, by quantiles at mid-points."""
    q = (np.arange(quantiles) + 0.5) / quantiles
    return float(np.abs(np.quantile(a_N, q) - np.quantile(b_M, q)).mean())


def sliced_wasserstein(a_NF: Matrix, b_MF: Matrix, *, directions: int = 128, seed: int = 0) -> float:
    """Mean first Wasserstein distance along random directions (Rabin et al. 2011), scaled by sqrt(F)."""
    width = a_NF.shape[1]
    theta_FD = np.random.default_rng(seed).standard_normal((width, directions))
    theta_FD /= np.linalg.norm(theta_FD, axis=0)
    q = (np.arange(500) + 0.5) / 500
    a_QD, b_QD = (np.quantile(x @ theta_FD, q, axis=0) for x in (a_NF, b_MF))
    return float(np.abs(a_QD - b_QD).mean() * np.sqrt(width))
