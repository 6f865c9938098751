"""Precision, recall, density and coverage of one sample by another (Kynkäänniemi et al. 2019; Naeem et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """All in [0, 1] but density, which can exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def squared_distances(a_NF: Matrix, b_MF: Matrix) -> Matrix:
    """|a - b|^2 (N, M), never below zero."""
    norms = np.einsum("nf,nf->n", a_NF, a_NF)[:, None] + np.einsum("mf,mf->m", b_MF, b_MF)
    distances: Matrix = np.maximum(norms - 2 * a_NF @ b_MF.T, 0)
    return distances


def prdc(real_NF: Matrix, fake_MF: Matrix, *, k: int = 5) -> Coverage:
    """How `fake` covers `real`, with balls that reach each point's `k`-th nearest neighbour of its own sample."""
    real_N, fake_M = _radii(real_NF, k), _radii(fake_MF, k)
    distance_NM = squared_distances(real_NF, fake_MF)
    in_real_NM = distance_NM < real_N[:, None]
    return Coverage(
        precision=float(in_real_NM.any(0).mean()),
        recall=float((distance_NM < fake_M).any(1).mean()),
        density=float(in_real_NM.sum(0).mean() / k),
        coverage=float((distance_NM.min(1) < real_N).mean()),
    )


def _radii(x_NF: Matrix, k: int) -> Matrix:
    """Squared distance of each row to its k-th neighbour, itself not counted."""
    distance_NN = squared_distances(x_NF, x_NF)
    np.fill_diagonal(distance_NN, 0)
    radii: Matrix = np.partition(distance_NN, k, axis=1)[:, k]
    return radii
