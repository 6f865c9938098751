"""The nearest real image of each query, and the nearest query of each real image, under every small warp.

similarity(q, r) = max over warps w of <e(w q), e(r)>, with e zero-mean and unit-norm: a correlation in [-1, 1].
One matrix product a block and warp, float32; cost is queries x real images x warps, linear in each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgan.privacy.embedding import Embedding
from medgan.privacy.views import Images, unit
from medgan.privacy.warps import Warp, aligned_warps, matrix

Patients = npt.NDArray[np.object_]
BLOCK_QUERIES = 512
DETAIL = "E2"
"""The band that tells two images apart best: membership is asked in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """Neighbours in one embedding; similarities float32 in [-1, 1], places int32.

    For each query (Q,) the similarity, index and warp of its nearest real image; `of_real` (R,) is the similarity of
    the nearest query to each real image, in the detailed band only (elsewhere (0,)).
    """

    similarity: npt.NDArray[np.float32]
    index: npt.NDArray[np.int32]
    warp: npt.NDArray[np.int32]
    of_real: npt.NDArray[np.float32]


def nearest(
    queries: Images, real: Images, embedding: Embedding, *, apart: tuple[Patients, Patients] | None = None
) -> dict[str, Nearest]:
    """Aligned nearest neighbours a band.

    `apart` names the patients of queries (Q,) and of real images (R,): no patient is compared with itself.
    """
    own_rows, own_columns = _own(apart) if apart is not None else (np.zeros(0, int), np.zeros(0, int))
    query_NP, real_vectors = unit(queries), embedding.vectors(unit(real), Warp())
    found = {name: _nothing(len(queries), len(real) if name == DETAIL else 0) for name in real_vectors}
    for number, warp in enumerate(aligned_warps()):
        for start in range(0, len(queries), BLOCK_QUERIES):
            block = slice(start, start + BLOCK_QUERIES)
            for name, query_NK in embedding.vectors(query_NP[block], warp).items():
                similarity_QR = query_NK @ real_vectors[name].T
                own = slice(*np.searchsorted(own_rows, (start, start + BLOCK_QUERIES)))
                similarity_QR[own_rows[own] - start, own_columns[own]] = -1
                _keep_best(found[name], block, similarity_QR, number)
    return found


def correlation(queries: Images, real: Images, near: Nearest) -> npt.NDArray[np.float32]:
    """(Q,) plain pixel correlation of each query, warped as in `near`, with its nearest real image's inner window."""
    size = queries.shape[1]
    out = np.zeros(len(queries), np.float32)
    window = matrix(Warp(), size)
    warps = aligned_warps()
    for number in np.unique(near.warp):
        warp, rows = warps[number], np.flatnonzero(near.warp == number)
        seen = unit((matrix(warp, size) @ queries[rows].reshape(len(rows), -1).T).T)
        original = unit((window @ real[near.index[rows]].reshape(len(rows), -1).T).T)
        out[rows] = np.einsum("np,np->n", seen, original) / max(seen.shape[1], 1)
    return out


def _own(apart: tuple[Patients, Patients]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs (query, real image) of one patient, sorted by query."""
    _, codes = np.unique(np.concatenate(apart), return_inverse=True)
    queries = len(apart[0])
    rows, columns = np.nonzero(codes[:queries, None] == codes[None, queries:])
    return rows, columns


def _keep_best(best: Nearest, block: slice, similarity_QR: npt.NDArray[np.float32], warp: int) -> None:
    index = similarity_QR.argmax(axis=1)
    top = similarity_QR[np.arange(len(index)), index]
    better = np.flatnonzero(top > best.similarity[block])
    rows = better + block.start
    best.similarity[rows], best.index[rows], best.warp[rows] = top[better], index[better], warp
    if len(best.of_real):
        np.maximum(best.of_real, similarity_QR.max(axis=0), out=best.of_real)


def _nothing(queries: int, real: int) -> Nearest:
    return Nearest(
        similarity=np.full(queries, -1, np.float32),
        index=np.zeros(queries, np.int32),
        warp=np.zeros(queries, np.int32),
        of_real=np.full(real, -1, np.float32),
    )
