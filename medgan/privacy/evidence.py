"""Everything the tests look at, measured once: how near synthetic and fresh real images lie to the train split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgan.errors import InvalidRequest
from medgan.privacy.embedding import MOST_IMAGES, Embedding, Vectors, fit
from medgan.privacy.nearest import Nearest, correlation, margin, nearest, nearest_in_each
from medgan.privacy.register import agreement
from medgan.privacy.views import Images, Views
from medgan.privacy.warps import aligned_warps

Scores = npt.NDArray[np.floating]
TWIN_CORRELATION = 0.995
"""Two real images of different patients that correlate more than this after registration are one image filed twice.
Unrelated radiographs of PneumoniaMNIST end at 0.966; its ten duplicates across a split begin at 0.9999."""
LEAST_PAIRS = 30
"""Patients with two images, below which no verification can be learned."""
_ISOLATED_SHARE, _ISOLATED_LEAST = 0.05, 30
"""Of 64 images a twentieth is three, of whom no attack could tell anything: as many as an AUC needs, half at most."""
_PLAIN_BLOCK = 1024
CALIBRATION_TRAIN = 1500
"""Train images compared with the rest of train, beside holdout-1: a 99.9 % quantile needs thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealImages:
    """Views (n, S, S) in [0, 1] of the three splits and the patient (n,) of each image."""

    train: Views
    holdout_1: Views
    holdout_2: Views
    train_patients: npt.NDArray[np.object_]
    holdout_1_patients: npt.NDArray[np.object_]
    holdout_2_patients: npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """Of query images to train.

    Per band (Q,) how near they come: in E1 and E2 the margin of the nearest (see `nearest.Nearest`), in "pixels" that
    of the correlation after fine registration with the better of both, beside nothing; in E3 the similarity. The pixel
    correlation (Q,) of the better match through its warp; the index (Q,) of the nearest train image in E2; the queries'
    own unit vectors in E1, `place` (Q, k).
    """

    bands: dict[str, Scores]
    correlation: Scores
    index: npt.NDArray[np.int32]
    place: Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured, twins left out of everything but the synthetic images.

    Nearness to train of `synthetic`, of `calibration` (holdout-1, and train against the rest of train; of whom is said
    by `calibration_patients`) and of `control` (holdout-2);
    membership scores of train images (`members`) and holdout images (`others`) by attack; `authentic` counts of
    inauthentic and all images, synthetic then fresh real; which of train and of the others are the most isolated, by
    the similarity in E2 of their nearest (other) train image, `reach`; `twins` found.
    `same_patient` is how near images of holdout-2 come to another image of their own patient, in E3 (empty where no
    patient has two).
    """

    embedding: Embedding
    synthetic: Similarity
    calibration: Similarity
    calibration_patients: npt.NDArray[np.object_]
    control: Similarity
    members: dict[str, Scores]
    others: dict[str, Scores]
    member_patients: npt.NDArray[np.object_]
    other_patients: npt.NDArray[np.object_]
    same_patient: Scores
    authentic: tuple[int, int, int, int]
    isolated_train: npt.NDArray[np.bool_]
    isolated_others: npt.NDArray[np.bool_]
    reach: Scores
    reach_others: Scores
    twins: int
    synthetic_images: int


def similarity_to_train(queries: Views, real: RealImages, embedding: Embedding) -> Similarity:
    """How near `queries` (Q, S, S) come to the train split."""
    near = nearest(queries, real.train, embedding, patients=real.train_patients)
    return _similarity(queries, real.train, near, embedding)


def collect(synthetic: Views, real: RealImages, *, seed: int) -> Evidence:
    """Measure everything once. Linear in synthetic x train images.

    Raises:
        InvalidRequest: every image of a holdout is one of train, filed twice: nobody is left to compare with.
    """
    *views, made = _drawn_together([real.train, real.holdout_1, real.holdout_2, synthetic], seed=seed)
    seen = np.concatenate([*views, made])
    embedding = fit(seen, seed=seed, synthetic=len(made), same_patient=_pairs_to_learn_from(real))
    train, first_set, second_set = (
        (real.train, real.train_patients),
        (real.holdout_1, real.holdout_1_patients),
        (real.holdout_2, real.holdout_2_patients),
    )
    holdouts = np.concatenate([real.holdout_1[:], real.holdout_2[:]])
    to_train, to_holdout = nearest_in_each(synthetic, [train, (holdouts, None)], embedding)
    from_1, of_2 = nearest_in_each(real.holdout_1, [train, second_set], embedding)
    from_2, of_1 = nearest_in_each(real.holdout_2, [train, first_set], embedding)
    between = (of_1, of_2)
    first, second = (
        _similarity(images, real.train, near, embedding)
        for images, near in ((real.holdout_1, from_1), (real.holdout_2, from_2))
    )
    keep_1, keep_2 = first.correlation < TWIN_CORRELATION, second.correlation < TWIN_CORRELATION
    if not keep_1.any() or not keep_2.any():
        raise InvalidRequest(
            "every image of a holdout has a twin in train: the archive holds its images twice under other patients. "
            "Leave the copies out, or give them the PatientID of their originals"
        )
    inside, inside_patients = _train_against_train(real, embedding, seed=seed)
    keep = inside.correlation < TWIN_CORRELATION
    members, others = _membership(to_train, to_holdout, (from_1, from_2), between, np.concatenate([keep_1, keep_2]))
    fresh = np.concatenate([real.holdout_1[keep_1], real.holdout_2[keep_2]])
    authentic, reach, reach_others = _authentic(synthetic, fresh, real.train, embedding)
    isolated_train, isolated_others = _isolated(reach, reach_others)
    return Evidence(
        embedding=embedding,
        synthetic=_similarity(synthetic, real.train, to_train, embedding),
        calibration=joined(_kept(first, keep_1), _kept(inside, keep)),
        calibration_patients=np.concatenate([real.holdout_1_patients[keep_1], inside_patients[keep]]),
        control=_kept(second, keep_2),
        members=members,
        others=others,
        member_patients=real.train_patients,
        other_patients=np.concatenate([real.holdout_1_patients[keep_1], real.holdout_2_patients[keep_2]]),
        same_patient=_same_patient(real, embedding),
        authentic=authentic,
        isolated_train=isolated_train,
        isolated_others=isolated_others,
        reach=reach,
        reach_others=reach_others,
        twins=int((~keep_1).sum() + (~keep_2).sum()),
        synthetic_images=len(synthetic),
    )


def _drawn_together(parts: Sequence[Views], *, seed: int) -> list[Images]:
    """All images of each part, or as many as an embedding needs, drawn from all alike."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x647261]))
    ends = np.cumsum([0, *map(len, parts)])
    rows = np.sort(rng.permutation(ends[-1])[:MOST_IMAGES])
    chosen = np.split(rows, np.searchsorted(rows, ends[1:-1]))
    return [part[of - start] for part, of, start in zip(parts, chosen, ends[:-1], strict=True)]


def _pairs_to_learn_from(real: RealImages) -> tuple[Images, Images] | None:
    """Two images of each patient of train and holdout-1 who has them; None where too few do. Holdout-2 tests it."""
    first, second = _two_of_each(np.concatenate([real.train_patients, real.holdout_1_patients]))
    if len(first) < LEAST_PAIRS:
        return None
    inside, start = first < len(real.train), len(real.train)  # a patient's images are all in one split
    parts = [(real.train[rows[inside]], real.holdout_1[rows[~inside] - start]) for rows in (first, second)]
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def _two_of_each(patients: npt.NDArray[np.object_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of two images of each patient who has two, in the patients' order."""
    _, owner = np.unique(patients.astype(str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    follows = np.flatnonzero(owner[order][1:] == owner[order][:-1])
    starts = follows[np.unique(owner[order][follows], return_index=True)[1]]
    return order[starts], order[starts + 1]


def _same_patient(real: RealImages, embedding: Embedding) -> Scores:
    """(n,) similarity in E3 of images of holdout-2 patients to another image of the same patient."""
    first, second = _two_of_each(real.holdout_2_patients)
    if len(embedding.bands) <= 2 or not len(first):  # noqa: PLR2004 - E1 and E2 are always there
        return np.empty(0, np.float32)
    near = nearest(real.holdout_2[first], real.holdout_2[second], embedding)["E3"]
    return np.where(near.index == np.arange(len(first)), near.similarity, -1)


def _correlation(queries: Views, train: Views, near: dict[str, Nearest]) -> Scores:
    plain: Scores = np.max(
        [correlation(queries, train, near[name].index, near[name].warp) for name in ("E1", "E2")], axis=0
    )
    return plain


def _similarity(queries: Views, train: Views, near: dict[str, Nearest], embedding: Embedding) -> Similarity:
    plain = _correlation(queries, train, near)
    warps = aligned_warps()
    pixels = [
        agreement(queries, train, [warps[number] for number in near[name].warp], index=near[name].index)
        for name in ("E1", "E2")
    ]
    bands: dict[str, Scores] = {name: near[name].margin for name in ("E1", "E2")} | {
        "pixels": margin(np.max(pixels, axis=0))
    }
    bands |= {name: band.similarity for name, band in near.items() if name not in bands}
    place = embedding.unwarped(queries, "E1")["E1"]
    return Similarity(bands=bands, correlation=plain, index=near["E2"].index, place=place)


def _train_against_train(
    real: RealImages, embedding: Embedding, *, seed: int
) -> tuple[Similarity, npt.NDArray[np.object_]]:
    """A sample of train images against all train images of other patients, as a fresh one would score; and whose."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x6C6F6F]))
    rows = np.sort(rng.permutation(len(real.train))[:CALIBRATION_TRAIN])
    near = nearest(
        real.train[rows],
        real.train,
        embedding,
        patients=real.train_patients,
        apart=real.train_patients[rows],
    )
    return _similarity(real.train[rows], real.train, near, embedding), real.train_patients[rows]


def _membership(
    to_train: dict[str, Nearest],
    to_holdout: dict[str, Nearest],
    from_holdouts: tuple[dict[str, Nearest], dict[str, Nearest]],
    between: tuple[dict[str, Nearest], dict[str, Nearest]],
    keep: npt.NDArray[np.bool_],
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Scores of train images (members) and of holdout images (others) for two attacks, in the detailed band E2.

    nearest: similarity of the nearest synthetic image less that of the nearest image of a reference holdout (GAN-Leaks,
    full black box, calibrated; Chen et al. 2020, section 4.3).
    ratio: log of the ratio of both distances, which estimates that of the densities (DOMIAS; van Breugel et al. 2023).
    Each holdout is the other's reference; train takes turns.
    """
    members, others = to_train["E2"].of_real, to_holdout["E2"].of_real
    reference_members = np.where(
        np.arange(len(members)) % 2 == 0, from_holdouts[0]["E2"].of_real, from_holdouts[1]["E2"].of_real
    )
    # always of_real: the image judged stands still and the others are warped, for members as for the rest
    reference_others = np.concatenate([near["E2"].of_real for near in between])
    return (
        {"nearest": members - reference_members, "ratio": margin(members, reference_members)},
        {"nearest": (others - reference_others)[keep], "ratio": margin(others, reference_others)[keep]},
    )


def _authentic(
    synthetic: Views, fresh: Views, train: Views, embedding: Embedding
) -> tuple[tuple[int, int, int, int], Scores, Scores]:
    """Inauthentic and all images, synthetic then fresh; and the similarity of train and fresh to the nearest train.

    Inauthentic: nearer to a train image than any other train image is (Alaa et al. 2022), in E2 without warps.
    """
    originals = embedding.unwarped(train, "E2")["E2"]
    reach, _ = _plain_nearest(train, originals, embedding, skip_self=True)
    (made, made_index), (other, other_index) = (
        _plain_nearest(images, originals, embedding) for images in (synthetic, fresh)
    )
    counts = (
        int((made > reach[made_index]).sum()),
        len(made),
        int((other > reach[other_index]).sum()),
        len(other),
    )
    return counts, reach, other


def _plain_nearest(
    queries: Views, originals_RK: npt.NDArray[np.float32], embedding: Embedding, *, skip_self: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """(Q,) similarity in E2 and index of the nearest original, without warps, in blocks."""
    similarity = np.empty(len(queries), np.float32)
    index = np.empty(len(queries), np.intp)
    for start in range(0, len(queries), _PLAIN_BLOCK):
        block = embedding.unwarped(queries[start : start + _PLAIN_BLOCK], "E2")["E2"] @ originals_RK.T
        rows = np.arange(len(block))
        if skip_self:
            block[rows, start + rows] = -1
        index[start + rows] = block.argmax(axis=1)
        similarity[start + rows] = block[rows, index[start + rows]]
    return similarity, index


def _isolated(reach: Scores, reach_others: Scores) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The train images (n,) whose nearest neighbour is farthest, and the others (m,) that are as far.

    Of train 5 % (privacy.md, G6), or 30, half at most: a number that the holdouts have no say in. Of the others all
    that are as far as the nearest of those, so that both sides are alike in it. Where that makes fewer than 30 (or half
    of the others) the next farthest fill up.
    """
    order, order_others = np.argsort(reach, kind="stable"), np.argsort(reach_others, kind="stable")
    count = _at_most_half(max(_ISOLATED_LEAST, round(_ISOLATED_SHARE * len(reach))), reach)
    alike = int((reach_others <= reach[order[count - 1]]).sum())
    count_others = max(alike, _at_most_half(_ISOLATED_LEAST, reach_others))
    return _marked(order[:count], len(reach)), _marked(order_others[:count_others], len(reach_others))


def _at_most_half(count: int, of: Scores) -> int:
    return min(count, max(1, len(of) // 2))


def _marked(rows: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(count, bool)
    chosen[rows] = True
    return chosen


def _kept(similarity: Similarity, keep: npt.NDArray[np.bool_]) -> Similarity:
    return _each(lambda values: values[keep], similarity)


def joined(first: Similarity, second: Similarity) -> Similarity:
    """The queries of both, one after the other."""
    return _each(lambda *values: np.concatenate(values), first, second)


def _each(change: Callable[..., Any], *parts: Similarity) -> Similarity:
    """What `change` makes of every field of the parts."""
    bands = {name: change(*(part.bands[name] for part in parts)) for name in parts[0].bands}
    rest = {name: change(*(getattr(part, name) for part in parts)) for name in ("correlation", "index", "place")}
    return Similarity(bands=bands, **rest)
