"""How often the gate refuses planted leaks and honest sets, beside the usual tests, on real radiographs.

    python -m tests.bench.privacy_power [--runs 200] [--pool 400]

Each run splits the 5,002 distinct radiographs of PneumoniaMNIST anew: 3,000 train, 500 + 500 holdout, 1,000 fresh ones
that stand for an honest generator. A share of the fresh is replaced by changed train images. "gate" is G1 or G2
failing; "DCR" the share nearer to train than to as large a holdout, beyond its 99 % binomial bound; "AUC" a plain
membership AUC with p < 0.01. All similarities are computed once, so a run is exact and costs a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from medgan.cohort import read
from medgan.privacy import embedding, judge, policy, statistics
from medgan.privacy.evidence import Similarity
from medgan.privacy.nearest import correlation, nearest
from medgan.privacy.views import CHANGES, changed, to_view, unit
from medgan.privacy.warps import Warp, aligned_warps
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.builders.cohort import prepared_cohort

TRAIN, HOLDOUT, FRESH, CALIBRATION = 3000, 500, 1000, 1000
PLANTS = [(name, 0.01) for name in CHANGES] + [("copy", 0.002)]


@dataclass(frozen=True)
class Table:
    """Similarities (Q, R) of queries to all real images: aligned in each band, and plain pixel correlation."""

    bands: dict[str, np.ndarray]
    plain: np.ndarray
    correlation: np.ndarray


def table_of(queries: np.ndarray, real: np.ndarray, fitted: embedding.Embedding) -> Table:
    """All pairs, maximum over the warps of the query."""
    originals = fitted.vectors(unit(real), Warp())
    bands = {name: np.full((len(queries), len(real)), -1, np.float32) for name in originals}
    rows = unit(queries)
    for warp in aligned_warps():
        for name, vectors in fitted.vectors(rows, warp).items():
            for start in range(0, len(rows), 512):
                block = slice(start, start + 512)
                np.maximum(bands[name][block], vectors[block] @ originals[name].T, out=bands[name][block])
    near = nearest(queries, real, fitted) if len(queries) < len(real) else None
    pixel = np.zeros(len(queries)) if near is None else correlation(queries, real, near["E2"])
    return Table(bands=bands, plain=(rows @ unit(real).T) / rows.shape[1], correlation=pixel)


@dataclass(frozen=True)
class Split:
    """Indices of one run."""

    train: np.ndarray
    holdout: np.ndarray
    fresh: np.ndarray


def similarity(table: Table, rows: np.ndarray, columns: np.ndarray, *, skip: np.ndarray | None = None) -> Similarity:
    """Of the rows to the columns; `skip` names each row's own column."""
    bands = {}
    for name, values in table.bands.items():
        part = values[np.ix_(rows, columns)]
        if skip is not None:
            part[skip[:, None] == columns[None, :]] = -1
        bands[name] = part.max(axis=1)
    return Similarity(bands=bands, correlation=table.correlation[rows], index=np.zeros(len(rows), np.int32))


def refusals(
    split: Split, real: Table, planted: dict[str, Table], sources: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[tuple[str, float], tuple[bool, bool, bool]]:
    """(gate, DCR, AUC) refusing, for nothing planted and for each plant."""
    limits = policy.load("strict")
    own = split.train[:CALIBRATION]
    strangers = (
        similarity(real, split.holdout[:HOLDOUT], split.train),
        similarity(real, own, split.train, skip=own),
    )
    calibration = {name: np.concatenate([part.bands[name] for part in strangers]) for name in real.bands}
    joined = Similarity(bands=calibration, correlation=np.zeros(0), index=np.zeros(0, np.int32))
    scale = judge.calibrate(joined, limits)
    fresh = similarity(real, split.fresh, split.train)
    out = {("nothing", 0.0): answers(scale.hits(fresh), real.plain[split.fresh], 0, split, scale, limits)}
    for name, share in PLANTS:
        candidates = np.flatnonzero(np.isin(sources[name], split.train))
        chosen = rng.permutation(candidates)[: round(share * FRESH)]
        kept = rng.permutation(FRESH)[len(chosen) :]
        found = similarity(planted[name], chosen, split.train)
        hits = np.concatenate([scale.hits(fresh)[kept], scale.hits(found)])
        plain = np.concatenate([real.plain[split.fresh[kept]], planted[name].plain[chosen]])
        copies = int((found.correlation >= limits.copies.correlation).sum())
        out[name, share] = answers(hits, plain, copies, split, scale, limits)
    return out


def answers(hits, plain, copies, split, scale, limits) -> tuple[bool, bool, bool]:
    """Whether the gate, the DCR share and the plain AUC refuse."""
    tail = judge.tail(int(hits.sum()), len(hits), scale, limits)
    nearer = plain[:, split.train[: len(split.holdout)]].max(axis=1) > plain[:, split.holdout].max(axis=1)
    dcr = stats.binomtest(int(nearer.sum()), len(nearer), 0.5, alternative="greater").pvalue < 0.01
    members, others = plain[:, split.train].max(axis=0), plain[:, split.holdout].max(axis=0)
    return (
        copies > 0 or (tail.conclusive and not tail.passed),
        bool(dcr),
        statistics.auc_p_value(members, others) < 0.01,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--pool", type=int, default=400)
    options = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder))
        views = to_view(read.load(prepared_cohort(zones, None, 32), zones=zones).images, (0, 65535))
    fitted = embedding.fit(views, seed=0)
    real = table_of(views, views, fitted)
    sources, planted = {}, {}
    for number, name in enumerate(CHANGES):
        rng = np.random.default_rng(number)
        sources[name] = rng.permutation(len(views))[: options.pool]
        planted[name] = table_of(changed(name, views[sources[name]], rng), views, fitted)
    print(f"machine: {machine()}; {len(views)} images, {options.runs} runs, n = {FRESH} synthetic")  # noqa: T201
    counts: dict[tuple[str, float], np.ndarray] = {}
    for run in range(options.runs):
        rng = np.random.default_rng(1000 + run)
        order = rng.permutation(len(views))
        ends = np.cumsum([TRAIN, 2 * HOLDOUT, FRESH])
        split = Split(train=order[: ends[0]], holdout=order[ends[0] : ends[1]], fresh=order[ends[1] : ends[2]])
        for key, answer in refusals(split, real, planted, sources, rng).items():
            counts[key] = counts.get(key, np.zeros(3)) + np.array(answer)
    print(f"{'planted':<18}{'share':>7}{'gate':>8}{'DCR':>8}{'AUC':>8}   (% of runs that refuse)")  # noqa: T201
    for (name, share), total in counts.items():
        cells = "".join(f"{100 * value / options.runs:8.1f}" for value in total)
        print(f"{name:<18}{share:7.1%}{cells}")  # noqa: T201
    print(f"{time.process_time() - started:.0f} CPU-seconds in all")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
