"""How often the gate refuses planted leaks and honest sets, beside the usual tests, on real images.

    python -m tests.bench.privacy_power [--runs 200] [--pool 400] [--idx FOLDER]

Each run splits real images anew into train, two holdouts, and fresh ones that stand for an honest generator; a share of
the fresh is replaced by changed train images. "gate" is G1 or G2 failing; "DCR" the share nearer to train than to as
large a holdout, beyond its 99 % binomial bound; "AUC" a plain membership AUC with p < 0.01.

Two sources: Fashion-MNIST (5,000 train, 500 + 500 holdout, 5,000 synthetic; Debian: dataset-fashion-mnist) where its
files are, and the distinct radiographs of PneumoniaMNIST (3,000, 500 + 500, 1,000). Embeddings and every image's
nearest neighbours in the pool are computed once; the nearest in a run's train split is the first of them that is in it.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from medgan.cohort import read
from medgan.privacy import embedding, judge, policy, statistics
from medgan.privacy.evidence import TWIN_CORRELATION, Similarity
from medgan.privacy.nearest import correlation, nearest
from medgan.privacy.views import CHANGES, changed, to_view, unit
from medgan.privacy.warps import Warp, aligned_warps
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.cohort import prepared_cohort

PLANTS = [(name, 0.01) for name in CHANGES] + [("copy", 0.002)]
CALIBRATION = 1500
FIRST = 96
"""Neighbours kept of each image: with a twelfth of the pool in a split, one in 4,000 has none among them."""
BLOCK = 256


@dataclass(frozen=True)
class Sizes:
    """Images of each part of a run; what is left of the pool is not used."""

    train: int
    holdout: int
    fresh: int

    @property
    def total(self) -> int:
        return self.train + 2 * self.holdout + self.fresh


@dataclass(frozen=True)
class Neighbours:
    """Of each query (Q,): its nearest pool images (Q, FIRST), nearest first, by band and by plain correlation."""

    index: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]
    correlation: np.ndarray

    def in_split(self, name: str, rows: np.ndarray, member: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
        """(n,) similarity of the nearest that is a `member` (pool mask) and not the row's `own` image."""
        index = self.index[name][rows]
        inside = member[index] if own is None else member[index] & (index != own[:, None])
        found = self.similarity[name][rows, inside.argmax(axis=1)]
        return np.where(inside.any(axis=1), found, -1)

    def scores(self, rows: np.ndarray, member: np.ndarray, own: np.ndarray | None = None) -> Similarity:
        bands = {name: self.in_split(name, rows, member, own) for name in ("E1", "E2")}
        return Similarity(bands=bands, correlation=self.correlation[rows], index=np.zeros(len(rows), np.int32))


def neighbours(
    queries: np.ndarray, pool: np.ndarray, fitted: embedding.Embedding, own: np.ndarray | None = None
) -> Neighbours:
    """All pairs, maximum over the warps of the query; `own` are the queries' own places in the pool, left out."""
    originals = fitted.vectors(unit(pool), Warp()) | {"plain": unit(pool) / pool.shape[1]}
    index = {name: np.empty((len(queries), FIRST), np.int32) for name in originals}
    similarity = {name: np.empty((len(queries), FIRST), np.float32) for name in originals}
    for start in range(0, len(queries), BLOCK):
        rows = unit(queries[start : start + BLOCK])
        tables = {name: np.full((len(rows), len(pool)), -1, np.float32) for name in ("E1", "E2")}
        for warp in aligned_warps():
            for name, vectors in fitted.vectors(rows, warp).items():
                np.maximum(tables[name], vectors @ originals[name].T, out=tables[name])
        tables["plain"] = (rows / pool.shape[1]) @ originals["plain"].T
        for name, table in tables.items():
            if own is not None:
                table[np.arange(len(rows)), own[start : start + BLOCK]] = -1
            first = np.argpartition(-table, FIRST, axis=1)[:, :FIRST]
            values = np.take_along_axis(table, first, axis=1)
            order = np.argsort(-values, axis=1)
            index[name][start : start + BLOCK] = np.take_along_axis(first, order, axis=1)
            similarity[name][start : start + BLOCK] = np.take_along_axis(values, order, axis=1)
    pixel = (
        np.zeros(len(queries)) if own is not None else correlation(queries, pool, nearest(queries, pool, fitted)["E2"])
    )
    return Neighbours(index=index, similarity=similarity, correlation=pixel)


def answers(
    hits: np.ndarray, copies: int, nearer: np.ndarray, members: np.ndarray, others: np.ndarray, scale: judge.Tail
) -> tuple[bool, bool, bool]:
    """Whether the gate, the DCR share and the plain AUC refuse."""
    limits = policy.load("strict")
    tail = judge.tail(int(hits.sum()), len(hits), scale, limits)
    dcr = stats.binomtest(int(nearer.sum()), len(nearer), 0.5, alternative="greater").pvalue < 0.01
    auc = statistics.auc_p_value(members, others) < 0.01
    return copies > limits.copies.most or (tail.conclusive and not tail.passed), bool(dcr), bool(auc)


def run(
    sizes: Sizes,
    pool: Neighbours,
    planted: dict[str, Neighbours],
    sources: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[tuple[str, float], tuple[bool, bool, bool]]:
    """One split: (gate, DCR, AUC) refusing, for nothing planted and for each plant."""
    count = len(pool.correlation)
    ends = np.cumsum([sizes.train, sizes.holdout, sizes.holdout, sizes.fresh])
    train, first, second, fresh = np.split(rng.permutation(count)[: ends[-1]], ends[:-1])
    mask = {name: np.isin(np.arange(count), rows) for name, rows in (("train", train), ("fresh", fresh))}
    matched = np.isin(np.arange(count), train[: 2 * sizes.holdout])  # DCR: as many train images as holdout ones
    holdout = np.isin(np.arange(count), np.concatenate([first, second]))
    own = train[:CALIBRATION]
    strangers = (pool.scores(first, mask["train"]), pool.scores(own, mask["train"], own))
    bands = {name: np.concatenate([part.bands[name] for part in strangers]) for name in ("E1", "E2")}
    nothing = np.zeros(len(bands["E1"]))
    scale = judge.calibrate(
        Similarity(bands=bands, correlation=nothing, index=nothing.astype(np.int32)), policy.load("strict")
    )
    honest = scale.hits(pool.scores(fresh, mask["train"]))
    nearer = pool.in_split("plain", fresh, matched) > pool.in_split("plain", fresh, holdout)
    members, others = (pool.in_split("plain", rows, mask["fresh"]) for rows in (train, np.flatnonzero(holdout)))
    out = {("nothing", 0.0): answers(honest, 0, nearer, members, others, scale)}
    for name, share in PLANTS:
        near = planted[name]
        chosen = rng.permutation(np.flatnonzero(mask["train"][sources[name]]))[: round(share * sizes.fresh)]
        kept = rng.permutation(sizes.fresh)[len(chosen) :]
        hits = np.concatenate([honest[kept], scale.hits(near.scores(chosen, mask["train"]))])
        closer = near.in_split("plain", chosen, matched) > near.in_split("plain", chosen, holdout)
        raised = members.copy()
        place_of = {int(row): place for place, row in enumerate(train)}
        for row in chosen:  # a planted image is the nearest synthetic one of its original
            place = place_of[int(sources[name][row])]
            raised[place] = max(raised[place], near.in_split("plain", np.array([row]), mask["train"])[0])
        copies = int((near.correlation[chosen] >= policy.load("strict").copies.correlation).sum())
        out[name, share] = answers(hits, copies, np.concatenate([nearer[kept], closer]), raised, others, scale)
    return out


def fashion(folder: Path, count: int) -> np.ndarray:
    """(count, 28, 28) float32 in [0, 1]."""
    data = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    return (np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)[:count] / 255).astype(np.float32)


def radiographs() -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder))
        return to_view(read.load(prepared_cohort(zones, None, 32), zones=zones).images, (0, 65535))


def bench(title: str, views: np.ndarray, sizes: Sizes, *, runs: int, pool: int) -> None:
    """Print one source's table."""
    started = time.process_time()
    fitted = embedding.fit(views, seed=0)
    own = np.arange(len(views))
    table = neighbours(views, views, fitted, own)
    single = table.similarity["plain"][:, 0] < TWIN_CORRELATION  # `cohort.prepare` drops images that were filed twice
    views, table = views[single], _without(table, single)
    sources, planted = {}, {}
    for number, name in enumerate(CHANGES):
        rng = np.random.default_rng(number)
        sources[name] = rng.permutation(len(views))[:pool]
        planted[name] = neighbours(changed(name, views[sources[name]], rng), views, fitted)
    print(f"\n{title}: {len(views)} images, {runs} runs, {sizes}")  # noqa: T201
    counts: dict[tuple[str, float], np.ndarray] = {}
    for number in range(runs):
        for key, answer in run(sizes, table, planted, sources, np.random.default_rng(1000 + number)).items():
            counts[key] = counts.get(key, np.zeros(3)) + np.array(answer)
    print(f"{'planted':<18}{'share':>7}{'gate':>8}{'DCR':>8}{'AUC':>8}   (% of runs that refuse)")  # noqa: T201
    for (name, share), total in counts.items():
        print(f"{name:<18}{share:7.1%}" + "".join(f"{100 * value / runs:8.1f}" for value in total))  # noqa: T201
    print(f"{time.process_time() - started:.0f} CPU-seconds", flush=True)  # noqa: T201


def _without(table: Neighbours, keep: np.ndarray) -> Neighbours:
    """The table of the images kept; a dropped neighbour's similarity becomes -1, so that it is nobody's nearest."""
    place = np.cumsum(keep) - 1
    index, similarity = {}, {}
    for name, neighbour in table.index.items():
        gone = ~keep[neighbour]
        values = np.where(gone, -1, table.similarity[name])[keep]
        order = np.argsort(-values, axis=1, kind="stable")
        index[name] = np.take_along_axis(np.where(gone, 0, place[neighbour])[keep], order, axis=1)
        similarity[name] = np.take_along_axis(values, order, axis=1)
    return Neighbours(index=index, similarity=similarity, correlation=table.correlation[keep])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--pool", type=int, default=400)
    parser.add_argument("--idx", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    options = parser.parse_args()
    print(f"machine: {machine()}")  # noqa: T201
    if options.idx.is_dir():
        sizes = Sizes(train=5000, holdout=500, fresh=5000)
        bench("Fashion-MNIST", fashion(options.idx, 11_500), sizes, runs=options.runs, pool=options.pool)
    bench("PneumoniaMNIST", radiographs(), Sizes(3000, 500, 1000), runs=options.runs, pool=options.pool)


if __name__ == "__main__":
    sys.exit(main())
