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
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy import stats

from medgan.cohort import read
from medgan.privacy import embedding, judge, policy, statistics
from medgan.privacy.evidence import TWIN_CORRELATION, Similarity, joined
from medgan.privacy.nearest import BESIDE, Block, blocks, correlation, margin
from medgan.privacy.register import agreement
from medgan.privacy.tail import Tail, calibrate
from medgan.privacy.views import CHANGES, changed, to_view, unit
from medgan.privacy.warps import aligned_warps
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.cohort import prepared_cohort

PLANTS = [(name, 0.01) for name in CHANGES] + [("copy", 0.002)]
CALIBRATION = 1500
FIRST, REGISTERED = 96, 20
"""Neighbours kept of each image, and registered: with a twelfth of the pool in a split, one in 4,000 has none among
the 96; with 43 % in train, one in 80,000 has none among the 20."""


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
    """Of each query (Q,): its own vectors, and its nearest pool images by E1, E2 and plain correlation (Q, FIRST).

    Of the first of them in E1 and E2 (Q, REGISTERED) the correlation through the warp, and after fine registration.
    """

    place: dict[str, np.ndarray]
    index: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]
    correlation: dict[str, np.ndarray]
    pixels: dict[str, np.ndarray]

    def places(self, name: str, rows: np.ndarray, member: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
        """(n, FIRST) how many `member`s of the pool (mask), the row's `own` image apart, lie up to each neighbour."""
        index = self.index[name][rows]
        inside = member[index] if own is None else member[index] & (index != own[:, None])
        return np.cumsum(inside, axis=1)

    def in_split(self, name: str, rows: np.ndarray, member: np.ndarray) -> np.ndarray:
        """(n,) similarity of the nearest that is a `member`."""
        return _at(self.similarity[name][rows], self.places(name, rows, member), 1)

    def scores(self, rows: np.ndarray, member: np.ndarray, own: np.ndarray | None = None) -> Similarity:
        """What `evidence` would measure of the queries against the members."""
        bands, pixels, plain = {}, [], []
        for name in ("E1", "E2"):
            places = self.places(name, rows, member, own)
            first, fifth = (_at(self.similarity[name][rows], places, rank) for rank in (1, BESIDE))
            bands[name] = margin(first, fifth)
            pixels.append(_at(self.pixels[name][rows], places[:, :REGISTERED], 1))
            plain.append(_at(self.correlation[name][rows], places[:, :REGISTERED], 1))
        bands["pixels"] = margin(np.maximum(*pixels))
        return Similarity(
            bands=bands,
            correlation=np.maximum(*plain),
            index=np.zeros(len(rows), np.int32),
            place=self.place["E1"][rows],
        )


def _at(values: np.ndarray, places: np.ndarray, rank: int) -> np.ndarray:
    """(n,) the value of the `rank`-th member; -1 where there are fewer."""
    reached = places >= rank
    return np.where(reached.any(axis=1), values[np.arange(len(values)), reached.argmax(axis=1)], -1)


def neighbours(
    queries: np.ndarray, pool: np.ndarray, fitted: embedding.Embedding, own: np.ndarray | None = None
) -> Neighbours:
    """All pairs, maximum over the warps of the query; `own` are the queries' own places in the pool, left out."""
    plain = unit(pool) / pool.shape[1]
    parts: list[Neighbours] = []
    for tables in blocks(queries, fitted.unwarped(pool), fitted):
        rows = tables["E1"].rows
        similarities = {name: block.similarity for name, block in tables.items()}
        similarities["plain"] = (unit(queries[rows]) / pool.shape[1]) @ plain.T
        index, similarity, through, fine = {}, {}, {}, {}
        for name, table in similarities.items():
            if own is not None:
                table[np.arange(len(table)), own[rows]] = -1
            first = np.argpartition(-table, FIRST, axis=1)[:, :FIRST]
            values = np.take_along_axis(table, first, axis=1)
            order = np.argsort(-values, axis=1)
            index[name] = np.take_along_axis(first, order, axis=1).astype(np.int32)
            similarity[name] = np.take_along_axis(values, order, axis=1)
        for name, block in tables.items():
            through[name], fine[name] = _registered(queries[rows], pool, block, index[name][:, :REGISTERED])
        parts.append(
            Neighbours(
                place=fitted.unwarped(queries[rows]),
                index=index,
                similarity=similarity,
                correlation=through,
                pixels=fine,
            )
        )
    return Neighbours(
        **{
            field.name: {
                name: np.concatenate([getattr(part, field.name)[name] for part in parts])
                for name in getattr(parts[0], field.name)
            }
            for field in fields(Neighbours)
        }
    )


def _registered(
    queries: np.ndarray, pool: np.ndarray, block: Block, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(B, REGISTERED) correlation of each query with those pool images through the warp, and after registration."""
    warps, listed = block.warps(index), aligned_warps()
    through, fine = np.empty(index.shape, np.float32), np.empty(index.shape, np.float32)
    for place in range(index.shape[1]):
        near = index[:, place], warps[:, place]
        through[:, place] = correlation(queries, pool, *near)
        fine[:, place] = agreement(queries, pool[near[0]], [listed[number] for number in near[1]])
    return through, fine


def answers(
    hits: np.ndarray, copies: int, nearer: np.ndarray, members: np.ndarray, others: np.ndarray, scale: Tail
) -> tuple[bool, bool, bool]:
    """Whether the gate, the DCR share and the plain AUC refuse."""
    limits = policy.load("strict")
    tail = judge.tail(int(hits.sum()), len(hits), scale, limits)
    dcr = stats.binomtest(int(nearer.sum()), len(nearer), 0.5, alternative="greater").pvalue < 0.01
    auc = statistics.auc_p_value(members, others) < 0.01
    return copies > limits.copies.most or (tail.conclusive and not tail.passed), bool(dcr), bool(auc)


def run(
    sizes: Sizes,
    single: np.ndarray,
    pool: Neighbours,
    planted: dict[str, Neighbours],
    sources: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[tuple[str, float], tuple[float, ...]]:
    """One split of the `single` rows: (gate, DCR, AUC) refusing, and the share found, for nothing and each plant."""
    count = len(pool.index["E1"])
    ends = np.cumsum([sizes.train, sizes.holdout, sizes.holdout, sizes.fresh])
    train, first, second, fresh = np.split(rng.permutation(single)[: ends[-1]], ends[:-1])
    mask = {name: np.isin(np.arange(count), rows) for name, rows in (("train", train), ("fresh", fresh))}
    matched = np.isin(np.arange(count), train[: 2 * sizes.holdout])  # DCR: as many train images as holdout ones
    holdout = np.isin(np.arange(count), np.concatenate([first, second]))
    own = train[:CALIBRATION]
    strangers = (pool.scores(first, mask["train"]), pool.scores(own, mask["train"], own))
    limits = policy.load("strict")
    scale = calibrate(joined(*strangers), np.concatenate([first, own]), limits)
    unchanged = pool.scores(fresh, mask["train"])
    honest, same = scale.hits(unchanged), unchanged.correlation >= limits.copies.correlation
    nearer = pool.in_split("plain", fresh, matched) > pool.in_split("plain", fresh, holdout)
    members, others = (pool.in_split("plain", rows, mask["fresh"]) for rows in (train, np.flatnonzero(holdout)))
    out = {("nothing", 0.0): (*answers(honest, int(same.sum()), nearer, members, others, scale), honest.mean())}
    for name, share in PLANTS:
        near = planted[name]
        chosen = rng.permutation(np.flatnonzero(mask["train"][sources[name]]))[: round(share * sizes.fresh)]
        kept = rng.permutation(sizes.fresh)[len(chosen) :]
        there = near.scores(chosen, mask["train"])
        found = scale.hits(there)
        hits = np.concatenate([honest[kept], found])
        copies = int(same[kept].sum() + (there.correlation >= limits.copies.correlation).sum())
        closer = near.in_split("plain", chosen, matched) > near.in_split("plain", chosen, holdout)
        raised = members.copy()
        place_of = {int(row): place for place, row in enumerate(train)}
        for row in chosen:  # a planted image is the nearest synthetic one of its original
            place = place_of[int(sources[name][row])]
            raised[place] = max(raised[place], near.in_split("plain", np.array([row]), mask["train"])[0])
        out[name, share] = (
            *answers(hits, copies, np.concatenate([nearer[kept], closer]), raised, others, scale),
            found.mean(),
        )
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
    table = neighbours(views, views, fitted, np.arange(len(views)))
    # `cohort.prepare` drops images that were filed twice
    nearest = np.max([table.correlation[name][:, 0] for name in ("E1", "E2")], axis=0)
    single = np.flatnonzero(nearest < TWIN_CORRELATION)
    sources, planted = {}, {}
    for number, name in enumerate(CHANGES):
        rng = np.random.default_rng(number)
        sources[name] = rng.permutation(single)[:pool]
        planted[name] = neighbours(changed(name, views[sources[name]], rng), views, fitted)
    print(f"\n{title}: {len(single)} distinct images, {runs} runs, {sizes}")  # noqa: T201
    counts: dict[tuple[str, float], np.ndarray] = {}
    for number in range(runs):
        for key, answer in run(sizes, single, table, planted, sources, np.random.default_rng(1000 + number)).items():
            counts[key] = counts.get(key, np.zeros(4)) + np.array(answer)
    print(f"{'planted':<18}{'share':>7}{'gate':>8}{'DCR':>8}{'AUC':>8}{'found':>8}   (% of runs, of images)")  # noqa: T201
    for (name, share), total in counts.items():
        print(f"{name:<18}{share:7.1%}" + "".join(f"{100 * value / runs:8.1f}" for value in total))  # noqa: T201
    print(f"{time.process_time() - started:.0f} CPU-seconds", flush=True)  # noqa: T201


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
