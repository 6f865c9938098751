"""From what is asked for to integers: images per cell that meet every target, otherwise as real patients are spread.

Real counts are raked (iterative proportional fitting, Deming & Stephan 1940) to the shares asked for, which keeps every
association that no target speaks of. Then whole images: Hamilton's method for one target, a small integer program for
several, so that each target is met to the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgan.errors import InvalidRequest
from medgan.records.synthetic import CROSS, Target
from medgan.synthesis.joint import JointTable

_ROUNDS = 2000
_MET = 1e-6
_CLOSE = 1e-3
"""Raking that ends farther than this from a share is a request that cannot be met."""
_WITHIN = 0.01
_SLACK_COST = 1000.0

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One target on the cells of the table, as buckets of cells; bucket 0 is whatever the target does not name.

    `group` (C,) says in which bucket a cell falls, `images` (B,) how many it gets; `exact` refuses a miss by one.
    """

    of: tuple[str, ...]
    group: Integers
    images: Integers
    exact: bool


def allocate(images: int, targets: Sequence[Target], joint: JointTable) -> Integers:
    """Images (C,) of each cell of `joint`, in its order; they sum to `images` and meet every target.

    Raises:
        InvalidRequest: a value that is not supported, or targets that cannot be met together; says what is supported.
    """
    cells = list(joint.counts)
    real = np.array([joint.counts[cell] for cell in cells], dtype=np.float64)
    wanted = [_wanted(images, target, joint) for target in targets]
    raked = images * _raked(real / real.sum(), images, wanted)
    if not wanted:
        return largest_remainder(images, raked.tolist())
    if len(wanted) == 1:
        counts = np.zeros(len(cells), dtype=np.int64)
        for bucket, count in enumerate(wanted[0].images.tolist()):
            rows = np.flatnonzero(wanted[0].group == bucket)
            if len(rows) and count:
                counts[rows] = largest_remainder(count, raked[rows].tolist())
        return counts
    return _whole(images, raked, wanted)


def largest_remainder(total: int, weights: Sequence[float]) -> Integers:
    """(K,) integers that sum to `total` in proportion to `weights` (Hamilton's method; ties go to the first)."""
    shares = np.asarray(weights, dtype=np.float64)
    quota = total * shares / shares.sum()
    counts: Integers = np.floor(quota).astype(np.int64)
    rest = total - int(counts.sum())
    order = np.argsort(-(quota - counts), kind="stable")
    counts[order[:rest]] += 1
    return counts


def _wanted(images: int, target: Target, joint: JointTable) -> _Wanted:
    """The target as buckets of cells, refused where it names what the table cannot tell."""
    places = [joint.columns.index(name) for name in target.of]
    asked = {tuple(key.split(CROSS)): value for key, value in (target.shares or target.counts or {}).items()}
    bucket_of = {values: bucket for bucket, values in enumerate(asked, start=1)}
    group = np.array(
        [bucket_of.get(tuple(cell[place] for place in places), 0) for cell in joint.counts], dtype=np.int64
    )
    missing = [values for values, bucket in bucket_of.items() if asked[values] and not (group == bucket).any()]
    if missing:
        raise InvalidRequest(
            f"{len(missing)} of the values asked for {_said(target.of)} are not supported: "
            f"{supported(joint, target.of)}"
        )
    if target.counts is not None:
        named = np.array(list(target.counts.values()), dtype=np.int64)
    else:
        shares = list(asked.values())
        named = largest_remainder(images, [*shares, max(0.0, 1 - sum(shares))])[:-1]
    rest = images - int(named.sum())
    if rest and not (group == 0).any():
        raise InvalidRequest(
            f"what is asked for {_said(target.of)} leaves {rest:,} of {images:,} images, and no other value is "
            f"supported: {supported(joint, target.of)}"
        )
    counts = np.concatenate([[rest], named])
    return _Wanted(of=target.of, group=group, images=counts, exact=target.counts is not None)


def supported(joint: JointTable, of: Sequence[str]) -> str:
    """What can be asked for an attribute, or for several together, as a sentence."""
    places = [joint.columns.index(name) for name in of]
    cells = sorted({CROSS.join(cell[place] for place in places) for cell in joint.counts})
    return f"{_said(of)} may be {'; '.join(cells[:24])}" + (f" and {len(cells) - 24} more" if len(cells) > 24 else "")  # noqa: PLR2004 - a screenful


def _raked(shares: Reals, images: int, wanted: Sequence[_Wanted]) -> Reals:
    """Shares (C,) nearest to the real ones (Kullback-Leibler) that meet all targets."""
    raked = shares.copy()
    for _ in range(_ROUNDS):
        worst = 0.0
        for target in wanted:
            now = np.bincount(target.group, raked, minlength=len(target.images))
            goal = target.images / images
            worst = max(worst, float(np.abs(now - goal).max()))
            raked *= np.divide(goal, now, out=np.zeros_like(now), where=now > 0)[target.group]
        if worst < _MET:
            break
    for target in wanted:
        off = np.abs(np.bincount(target.group, raked, minlength=len(target.images)) - target.images / images).max()
        if off > _CLOSE:
            raise InvalidRequest(
                f"the targets cannot be met together: {_said(target.of)} stays {off:.1%} away. Combinations that fewer "
                "than 11 real patients have, or that nobody can have, are not made: drop or loosen a target"
            )
    shares_C: Reals = raked / raked.sum()
    return shares_C


def _whole(images: int, raked: Reals, wanted: Sequence[_Wanted]) -> Integers:
    """Integers (C,) nearest to `raked` in sum of distances that meet every bucket; a miss costs a thousand cells."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack, vstack

    cells = len(raked)
    buckets = sum(len(target.images) for target in wanted)
    member = vstack(
        [
            csr_array((np.ones(cells), (target.group, np.arange(cells))), (len(target.images), cells))
            for target in wanted
        ]
    )
    # variables: images x (C, integers), distance t (C) >= |x - raked|, and a bucket's surplus and deficit (B, B)
    far = csr_array((cells, 2 * buckets))
    meet = hstack([member, csr_array((buckets, cells)), -eye_array(buckets), eye_array(buckets)])
    above = hstack([eye_array(cells), -eye_array(cells), far])
    below = hstack([-eye_array(cells), -eye_array(cells), far])
    goal = np.concatenate([target.images for target in wanted]).astype(np.float64)
    found = milp(
        c=np.concatenate([np.zeros(cells), np.ones(cells), np.full(2 * buckets, _SLACK_COST)]),
        integrality=np.concatenate([np.ones(cells), np.zeros(cells + 2 * buckets)]),
        bounds=Bounds(0, np.inf),
        constraints=[
            LinearConstraint(meet, goal, goal),
            LinearConstraint(above, -np.inf, raked),
            LinearConstraint(below, -np.inf, -raked),
        ],
        options={"mip_rel_gap": 0.05},
    )
    counts = (
        np.rint(found.x[:cells]).astype(np.int64) if found.x is not None else largest_remainder(images, raked.tolist())
    )
    _check(counts, images, wanted)
    return counts


def _check(counts: Integers, images: int, wanted: Sequence[_Wanted]) -> None:
    """Refuse integers that miss a target by more than was promised."""
    for target in wanted:
        made = np.bincount(target.group, counts, minlength=len(target.images))
        off = int(np.abs(made - target.images).max())
        if off > (0 if target.exact else max(1, _WITHIN * images)) or int(counts.sum()) != images:
            raise InvalidRequest(
                f"no whole numbers of images meet all targets: {_said(target.of)} would miss by {off:,} images; "
                "loosen one"
            )


def _said(of: Sequence[str]) -> str:
    return CROSS.join(name.replace("_", " ") for name in of)
