"""The nearest real image of each query, and the nearest query of each real image, under every small warp.

similarity(q, r) = max over warps w of <e(w q), e(r)>, with e zero-mean and unit-norm: a correlation in [-1, 1].
One matrix product a block and warp, float32; cost is queries x real images x warps, linear in each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from medgan.cluster import available_cores
from medgan.privacy.embedding import Embedding, Vectors
from medgan.privacy.views import Images, Views, unit
from medgan.privacy.warps import Warp, aligned_warps, matrix

Patients = npt.NDArray[np.object_]
DETAIL = "E2"
"""The band that tells two images apart best: membership is asked in it."""
BESIDE = 5
"""The margin compares the nearest with the nearest image of the fifth patient: a few twins in train hide no copy."""
_LEAST_GAP = 1e-4
"""1 - similarity below this is rounding: an exact copy's margin ends there."""
_MOST_QUERIES, _TABLE = 1024, 1 << 23
"""Queries a block, and similarities a block and band (32 MiB), whichever is less."""
_PAIRS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """Neighbours in one embedding; similarities and margins float32, places int32.

    For each query (Q,) the similarity in [-1, 1], index and warp of its nearest real image, and by how much that one is
    nearer than the fifth patient's: `margin` = log((1 - similarity of the fifth) / (1 - similarity)), 0 or more, which
    is large for a copy also where images are crowded. `of_real` (R,) is the similarity of the nearest query to each
    real image, in the detailed band only (elsewhere (0,)).
    """

    similarity: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    index: npt.NDArray[np.int32]
    warp: npt.NDArray[np.int32]
    of_real: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some queries against all real images in one embedding: `similarity` (B, R), largest over the warps.

    `seen` (W, B, k) are the queries' vectors through each warp, `originals` (R, k) the real images'.
    """

    rows: slice
    similarity: npt.NDArray[np.float32]
    seen: Vectors
    originals: Vectors

    def of(self, columns: slice) -> Block:
        """The same queries against some of the real images."""
        similarity = self.similarity[:, columns]
        return replace(self, similarity=similarity, originals=self.originals[columns])

    def warps(self, index_BN: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """(B, n) the warp through which each query looks most like each of its real images `index_BN`."""
        originals_BKN = self.originals[index_BN].transpose(0, 2, 1)
        best: npt.NDArray[np.intp] = np.argmax(self.seen.transpose(1, 0, 2) @ originals_BKN, axis=1)
        return best.astype(np.int32)


def nearest(
    queries: Views,
    real: Views,
    embedding: Embedding,
    *,
    patients: Patients | None = None,
    apart: Patients | None = None,
) -> dict[str, Nearest]:
    """Aligned nearest neighbours a band.

    `patients` (R,) of the real images, each its own where they are not told; `apart` (Q,) names the patients of the
    queries: no patient is compared with itself.
    """
    return nearest_in_each(queries, [(real, patients)], embedding, apart=apart)[0]


def nearest_in_each(
    queries: Views,
    sets: Sequence[tuple[Views, Patients | None]],
    embedding: Embedding,
    *,
    apart: Patients | None = None,
) -> list[dict[str, Nearest]]:
    """`nearest` in each of several sets of real images with their patients, for one look at the queries."""
    ends = np.cumsum([0, *(len(real) for real, _ in sets)])
    parts = [slice(*pair) for pair in pairwise(ends)]
    numbers = [_numbered(len(real), patients, apart) for real, patients in sets]
    names = [name for name, _, _ in embedding.bands]
    found = [{name: _nothing(len(queries), len(real) if name == DETAIL else 0) for name in names} for real, _ in sets]
    originals = [embedding.unwarped(real) for real, _ in sets]
    for tables in blocks(queries, {name: np.concatenate([of[name] for of in originals]) for name in names}, embedding):
        for nearby, columns, (owners, own) in zip(found, parts, numbers, strict=True):
            for name in names:
                block = tables[name].of(columns)
                if own is not None:
                    block.similarity[own[block.rows, None] == owners[None, :]] = -1
                _note(nearby[name], block, owners)
    return found


def blocks(queries: Views, originals: dict[str, Vectors], embedding: Embedding) -> Iterator[dict[str, Block]]:
    """One block of queries after the other against all real images, a `Block` a band, in the order of the queries.

    `originals` are the real images' vectors, `embedding.unwarped`.

    As many blocks at once as there are cores, with one thread for the products of each: what lies between the products
    then runs on every core too, and the bytes do not depend on how many there are.
    """
    real = max(map(len, originals.values()))
    size, cores = max(1, min(_MOST_QUERIES, _TABLE // max(1, real))), available_cores()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores, thread_name_prefix="medgan-nearest") as threads:
        ahead: deque[Future[dict[str, Block]]] = deque()
        for start in range(0, len(queries), size):
            rows = slice(start, min(start + size, len(queries)))
            ahead.append(threads.submit(_look, rows, queries, originals, embedding))
            if len(ahead) > cores:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _look(rows: slice, queries: Views, originals: dict[str, Vectors], embedding: Embedding) -> dict[str, Block]:
    """Some queries, through every warp, against all real images."""
    query_NP, count, warps = unit(queries[rows]), rows.stop - rows.start, aligned_warps()
    tables = {name: np.full((count, len(rest)), -1, np.float32) for name, rest in originals.items()}
    seen = {name: np.empty((len(warps), count, rest.shape[1]), np.float32) for name, rest in originals.items()}
    product = np.empty((count, max(map(len, originals.values()))), np.float32)
    for number, warp in enumerate(warps):
        for name, vectors in embedding.vectors(query_NP, warp).items():
            seen[name][number] = vectors
            np.matmul(vectors, originals[name].T, out=product)
            np.maximum(tables[name], product, out=tables[name])
    return {
        name: Block(rows=rows, similarity=tables[name], seen=seen[name], originals=rest)
        for name, rest in originals.items()
    }


def margin(
    nearest_N: npt.NDArray[np.float32], fifth_N: npt.NDArray[np.float32] | float = 0.0
) -> npt.NDArray[np.float32]:
    """log((1 - fifth) / (1 - nearest)) of similarities, float32: a copy is far beyond a stranger, not just above."""
    gap_N, beside_N = (np.maximum(1 - values, _LEAST_GAP) for values in (nearest_N, fifth_N))
    out: npt.NDArray[np.float32] = np.log(beside_N / gap_N).astype(np.float32)
    return out


def correlation(
    queries: Views, real: Views, index: npt.NDArray[np.int32], warp: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """(Q,) plain pixel correlation of each query, seen through warp number `warp`, with real image `index`."""
    out = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), _PAIRS):
        rows = slice(start, start + _PAIRS)
        out[rows] = _correlation(queries[rows], real[index[rows]], warp[rows])
    return out


def _correlation(queries: Images, originals: Images, warp: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    size = queries.shape[1]
    out = np.zeros(len(queries), np.float32)
    window = matrix(Warp(), size)
    warps = aligned_warps()
    for number in np.unique(warp):
        rows = np.flatnonzero(warp == number)
        seen = unit((matrix(warps[number], size) @ queries[rows].reshape(len(rows), -1).T).T)
        original = unit((window @ originals[rows].reshape(len(rows), -1).T).T)
        out[rows] = np.einsum("np,np->n", seen, original) / max(seen.shape[1], 1)
    return out


def _numbered(
    real: int, patients: Patients | None, apart: Patients | None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
    """Numbers of the patients of the real images (R,), from 0 on, and of the queries (Q,), if they are told."""
    if patients is None:
        return np.arange(real), None
    names, owners = np.unique(patients.astype(str), return_inverse=True)
    if apart is None:
        return owners, None
    place = np.minimum(np.searchsorted(names, apart.astype(str)), len(names) - 1)
    return owners, np.where(names[place] == apart.astype(str), place, -1)


def _note(found: Nearest, block: Block, owners: npt.NDArray[np.intp]) -> None:
    """Enter a block's neighbours; `owners` (R,) are the real images' patients, numbered from 0."""
    table_BR, rows = block.similarity, block.rows
    index = table_BR.argmax(axis=1).astype(np.int32)
    found.index[rows] = index
    found.similarity[rows] = table_BR[np.arange(len(index)), index]
    found.warp[rows] = block.warps(index[:, None])[:, 0]
    if len(found.of_real):
        np.maximum(found.of_real, table_BR.max(axis=0), out=found.of_real)
    people = owners.max() + 1
    if people < len(owners):
        order = np.argsort(owners, kind="stable")
        table_BR = np.maximum.reduceat(table_BR[:, order], np.searchsorted(owners[order], np.arange(people)), axis=1)
    fifth = max(0, people - BESIDE)
    found.margin[rows] = margin(found.similarity[rows], np.partition(table_BR, fifth, axis=1)[:, fifth])


def _nothing(queries: int, real: int) -> Nearest:
    return Nearest(
        similarity=np.full(queries, -1, np.float32),
        margin=np.zeros(queries, np.float32),
        index=np.zeros(queries, np.int32),
        warp=np.zeros(queries, np.int32),
        of_real=np.full(real, -1, np.float32),
    )
