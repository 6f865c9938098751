"""G9, in every run: copies of train images are planted in this very cohort, and the gate must see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgan.privacy import judge, statistics
from medgan.privacy.evidence import Evidence, RealImages, similarity_to_train
from medgan.privacy.policy import Policy
from medgan.privacy.tail import Tail
from medgan.privacy.views import CHANGES, changed
from medgan.records import GateTest

BLEND = "blend 30 %"
LEAST_FOR_RECALL = 100
"""Of each kind, to tell what share is found: of 20, by which one blend in three was judged, chance makes 11 points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Of `count` images with one change how many lie in the tail, and the gate's answer to the `planted` ones."""

    change: str
    count: int
    found: int
    planted: int
    refused: bool

    @property
    def recall(self) -> float:
        """Share of the planted images that lie in the tail."""
        return self.found / self.count


def plant(
    evidence: Evidence, real: RealImages, scale: Tail, in_tail: npt.NDArray[np.bool_], policy: Policy, *, seed: int
) -> tuple[Planted, ...]:
    """Plant each change in turn: the planted images take the place of as many synthetic ones.

    `in_tail` are the cohort's own hits. `LEAST_FOR_RECALL` images are changed, to be found or not; of them the policy's
    share is planted.
    """
    images = evidence.synthetic_images
    count = min(images, max(policy.self_test.planted_least, round(policy.self_test.planted_share * images)))
    own_copies = evidence.synthetic.correlation
    batches, replaced = [], []
    for number, name in enumerate(CHANGES):
        rng = np.random.Generator(np.random.Philox(key=[seed, 0x706C0000 + number]))
        rows = rng.permutation(len(real.train))[: max(count, LEAST_FOR_RECALL)]
        batches.append(changed(name, real.train[rows], rng))
        replaced.append(rng.permutation(images)[: min(count, len(rows))])
    near = similarity_to_train(np.concatenate(batches), real, evidence.embedding)
    found = np.split(scale.hits(near), len(CHANGES))
    correlations = np.split(near.correlation, len(CHANGES))
    results = []
    for name, rows, hits, correlation in zip(CHANGES, replaced, found, correlations, strict=True):
        left = np.concatenate([np.delete(own_copies, rows), correlation[: len(rows)]])
        total = int(hits[: len(rows)].sum() + np.delete(in_tail, rows).sum())
        answers = (judge.tail(total, images, scale, policy), judge.copies(left, policy))
        results.append(
            Planted(
                change=name,
                count=len(hits),
                found=int(hits.sum()),
                planted=len(rows),
                refused=any(not answer.passed and answer.conclusive for answer in answers),
            )
        )
    return tuple(results)


def verdict(planted: tuple[Planted, ...], policy: Policy) -> tuple[GateTest, ...]:
    """G9: refused with every change, and found often enough. A blind gate fails for good, whatever the policy."""
    whole = [result for result in planted if result.change != BLEND]
    blend = [result for result in planted if result.change == BLEND]
    tests = []
    for title, results, least in (
        ("self-test: least share of planted copies found", whole, policy.self_test.recall_least),
        ("self-test: share of planted blends found", blend, policy.self_test.blend_recall_least),
    ):
        worst = min(results, key=lambda result: result.recall)
        missed = [result.change for result in results if not result.refused]
        tests.append(
            GateTest(
                test="G9",
                title=title,
                value=round(worst.recall, 6),
                limit=least,
                passed=not missed and worst.recall >= least,
                detail=f"{worst.found} of {worst.count} by {worst.change} ({_between(worst)}); {worst.planted} in it: "
                + (f"not refused: {', '.join(missed)}" if missed else "refused with every change"),
            )
        )
    return tuple(tests)


def _between(planted: Planted) -> str:
    """The share found, as a 90 % interval."""
    low, high = (bound(planted.found, planted.count) for bound in (statistics.lower_rate, statistics.upper_rate))
    return f"{100 * low:.0f} to {100 * high:.0f} %"
