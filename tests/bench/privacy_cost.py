"""What the whole gate costs: wall time, CPU time and memory of G1 to G6 with the self-test, by size.

    python -m tests.bench.privacy_cost [--synthetic 10000] [--train 10000] [--holdout 1000] [--px 64]

The images are smooth random fields of their own (the cost is the same for any), each a patient of its own. The last
column divides the CPU time by the pairs that are searched through every warp: constant when the cost is linear. The
plan multiplies it by the pairs of larger cohorts, with holdouts of a tenth of train each.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from medgan.privacy import attack, policy, selftest
from medgan.privacy.evidence import CALIBRATION_TRAIN, RealImages
from medgan.privacy.nearest import Patients
from medgan.privacy.views import CHANGES, StoredViews
from tests.bench.__main__ import machine

_WAVES, _AT_ONCE = 40, 4096
PLANNED = ((100_000, 20_000), (1_000_000, 100_000))
"""Synthetic and train images."""


def images(count: int, px: int, seed: int) -> StoredViews:
    """(count, px, px), stored in 16 bits as everywhere: sums of random waves, long ones stronger."""
    rng = np.random.default_rng(seed)
    steps = np.random.default_rng(0).integers(-6, 7, (_WAVES, 2)) / px
    phases = 2 * np.pi * np.einsum("wa,ahk->whk", steps, np.mgrid[:px, :px])
    waves = np.concatenate([np.cos(phases), np.sin(phases)]).reshape(2 * _WAVES, -1).astype(np.float32)
    strengths = np.tile(1 / (1 + np.hypot(*steps.T) * px), 2)
    stored = np.empty((count, px, px), np.uint16)
    for start in range(0, count, _AT_ONCE):
        part = stored[start : start + _AT_ONCE]
        fields = (rng.normal(size=(len(part), 2 * _WAVES)) * strengths).astype(np.float32) @ waves
        part[:] = 65535 * np.clip(0.5 + 0.15 * fields, 0, 1).reshape(part.shape)
    return StoredViews(stored, (0.0, 65535.0))


def searched(synthetic: int, train: int, holdout: int) -> int:
    """Pairs of images that a run compares through all warps: `evidence.collect` and the self-test."""
    planted = round(policy.load("strict").self_test.planted_share * synthetic)
    planted = len(CHANGES) * min(train, max(planted, selftest.LEAST_FOR_RECALL))
    queries = synthetic + 2 * holdout + min(train, CALIBRATION_TRAIN) + planted
    return queries * train + 2 * holdout * (synthetic + holdout)


def _real(views: list[StoredViews], patients: list[Patients]) -> RealImages:
    train, first, second = zip(views, patients, strict=True)
    return RealImages(
        train=train[0],
        holdout_1=first[0],
        holdout_2=second[0],
        train_patients=train[1],
        holdout_1_patients=first[1],
        holdout_2_patients=second[1],
    )


def main() -> None:
    """Build, attack, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--synthetic", type=int, default=10_000)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--holdout", type=int, default=1000)
    parser.add_argument("--px", type=int, default=64)
    options = parser.parse_args()
    parts = (options.train, options.holdout, options.holdout)
    ends = np.cumsum((0, *parts))
    patients = [np.arange(start, start + count).astype(object) for start, count in zip(ends, parts, strict=False)]
    views = [images(count, options.px, seed) for seed, count in enumerate(parts)]
    made = images(options.synthetic, options.px, len(parts))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    attack.assess(made, _real(views, patients), policy.load("strict"))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"machine: {machine()}")  # noqa: T201
    print(f"{options.synthetic:,} synthetic of {options.px} px, {parts} real: {wall:.0f} s, {cpu:.0f} CPU-s, ", end="")  # noqa: T201
    print(f"peak {peak / 2**20:.2f} GiB ({before / 2**20:.2f} before), ", end="")  # noqa: T201
    rate = cpu / searched(options.synthetic, options.train, options.holdout)
    print(f"{1e6 * rate:.2f} CPU-us a pair")  # noqa: T201
    for synthetic, train in PLANNED:
        hours = rate * searched(synthetic, train, train // 10) / 3600
        gib = 2 * options.px**2 * 1.2 * train / 2**30
        print(f"plan: {synthetic:,} synthetic, {train:,} train: {hours:,.1f} CPU-hours, {gib:.1f} GiB of real images")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
