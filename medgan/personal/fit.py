"""Compare ways to train a downstream model with few real cases, and say honestly what the release gained.

Arms, all with the same number of steps and the same test cases of other patients: real cases alone, with classical
augmentation, synthetic cases alone, real + generic synthetic cases, real + personalised ones. Wherever real cases meet
synthetic ones they are augmented too, so the difference to `real + augmentation` is what synthetic cases add to the
best that can be done without them. Each seed draws other training cases and another start; differences are paired.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medgan.client.load import Dataset
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig
from medgan.personal import cases as local_cases
from medgan.personal import match, page, segment
from medgan.personal.cases import Cases
from medgan.personal.learner import Cnn, Learner, answered
from medgan.personal.unet import Segmenter
from medgan.records import ArmScore, Gain, LocalCases, Matching, PersonalReport, PersonalRequest, sha256_hex
from medgan.settings import Zones

REAL, AUGMENTED, SYNTHETIC = "real only", "real + augmentation", "synthetic only"
GENERIC, PERSONAL = "real + generic synthetic", "real + personalised synthetic"
ARMS = (REAL, AUGMENTED, SYNTHETIC, GENERIC, PERSONAL)
REPORT, PAGE = "report.json", "report.html"
TEST_SHARE = 0.5
_COPIES = 1000
"""Augmented images that a real training set is brought to."""
_FEW_PATIENTS = 10
"""Intervals are over training cases and starts; of test patients, so few may all be of one kind."""

OnProgress = Callable[[int, int], None]
MakeLearner = Callable[[int], Learner]
"""Number of classes (0: regression), or of structures, to a fresh learner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`values[arm][shots]` has the metric of each seed; `how[shots]` what each seed's cases made of the release."""

    metric: str
    values: dict[str, dict[int, list[float]]]
    test: Cases
    how: dict[int, list[str]]
    masks: segment.Judge | None = None


def personalise(
    dataset: Dataset,
    cases: LocalCases,
    request: PersonalRequest,
    *,
    zones: Zones,
    make_learner: MakeLearner | None = None,
    on_progress: OnProgress | None = None,
) -> PersonalReport:
    """Compare on registered cases; half of their patients are kept for the test. Writes the report and its page.

    Raises:
        InvalidRequest: too few cases for the shots, a class or structure that the release does not know, a task that
            does not fit.
    """
    outlines = request.task == "segmentation"
    if (not cases.structures) if outlines else (request.task == "classification") != bool(cases.classes):
        raise InvalidRequest(f"the cases' target does not fit the task {request.task}")
    most = request.most_synthetic * 2
    if outlines:
        named = local_cases.structure_names(cases, zones=zones)
        made = local_cases.synthetic_masks(dataset, named, cases.structures, most=most)
    else:
        made = local_cases.synthetic(dataset, local_cases.class_names(cases, zones=zones), most=most)
    compared = compare(
        local_cases.load(cases, made.unit.shape[1], zones=zones, masks=outlines),
        made,
        request,
        classes=0 if outlines else cases.classes,
        structures=cases.structures if outlines else 0,
        make_learner=make_learner,
        on_progress=on_progress,
    )
    return _write(compared, dataset, cases, request, zones=zones)


def compare(
    local: Cases,
    made: Cases,
    request: PersonalRequest,
    *,
    classes: int,
    structures: int = 0,
    make_learner: MakeLearner | None = None,
    on_progress: OnProgress | None = None,
    test: Cases | None = None,
) -> Comparison:
    """All arms, shots and seeds. `test` is taken from half of the local patients unless it is given.

    Targets are classes, numbers (`classes` of 0), or masks of `structures`.
    """
    pool, test = (local, test) if test is not None else _apart(local)
    _refuse_unfit(pool, test, request, masks=structures > 0)
    shots = [count for count in request.shots if count <= len(pool)]
    make = _maker(make_learner, request, masks=structures > 0)
    judge = segment.Judge(test, structures) if structures else None
    matcher = match.Matcher(made, classes=classes)
    values: dict[str, dict[int, list[float]]] = {arm: {count: [] for count in shots} for arm in ARMS}
    how: dict[int, list[str]] = {count: [] for count in shots}
    total, done = len(shots) * request.seeds * len(ARMS), 0
    for seed in range(request.seeds):
        for count in shots:
            real = pool.rows(_draw(pool, count, classes, np.random.default_rng([seed, count])))
            how[count].append(matcher.choose(real, share=request.share))
            for arm in ARMS:
                if arm == SYNTHETIC and count != shots[0]:  # does not depend on the real cases
                    values[arm][count].append(values[arm][shots[0]][-1])
                elif arm == PERSONAL and how[count][-1] == match.WHOLE:  # nothing to match: it is the generic arm
                    values[arm][count].append(values[GENERIC][count][-1])
                else:
                    way = how[count][-1] if arm == PERSONAL else match.WHOLE
                    chosen = matcher.made(matcher.synthetic, way, real, share=request.share)
                    training, synthetic = _training(arm, real, chosen, request, seed)
                    learner = make(structures or classes, count)
                    learner.fit(training, synthetic, seed=seed)
                    if judge is not None:
                        values[arm][count].append(judge(learner, arm, count))
                    else:
                        predicted = answered(learner, test.unit, *([classes] if classes else []))
                        values[arm][count].append(score(predicted, test.target, classes))
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
    metric = "Dice" if structures else "AUC" if classes else "R2"
    return Comparison(metric=metric, values=values, test=test, how=how, masks=judge)


def _refuse_unfit(pool: Cases, test: Cases, request: PersonalRequest, *, masks: bool) -> None:
    if len(pool) < min(request.shots):
        raise InvalidRequest(f"{min(request.shots)} real training cases are asked for but only {len(pool)} are there")
    if masks and not test.target.any():
        raise InvalidRequest("no test patient shows any of the structures: bring more cases")
    if not masks and (test.target == test.target[0]).all():
        raise InvalidRequest("all test cases have the same target, so nothing tells good from bad: bring more cases")


def _maker(theirs: MakeLearner | None, request: PersonalRequest, *, masks: bool) -> Callable[[int, int], Learner]:
    """What makes a learner for a number of classes or structures and of real cases; a team's own decides for itself."""
    if theirs is not None:
        return lambda outputs, _: theirs(outputs)
    if masks:
        return lambda outputs, real: Segmenter(structures=outputs, steps=request.steps, real=real)
    return lambda outputs, real: Cnn(classes=outputs, steps=request.steps, real=real)


def score(predicted: NDArray[np.float64], target: NDArray[np.generic], classes: int) -> float:
    """Area under the ROC curve, one against rest, mean over the test's classes; or the coefficient of determination."""
    from sklearn.metrics import r2_score, roc_auc_score

    if not classes:
        return float(r2_score(target, predicted))
    present = [one for one in range(classes) if 0 < (target == one).sum() < len(target)]
    return float(np.mean([roc_auc_score(target == one, predicted[:, one]) for one in present]))


def _apart(local: Cases) -> tuple[Cases, Cases]:
    """Training pool and test cases, of different patients."""
    patients = np.random.default_rng(0).permutation(np.unique(local.patient))
    held = np.isin(local.patient, patients[: max(1, round(TEST_SHARE * len(patients)))])
    if held.all() or not held.any():
        raise InvalidRequest("cases of at least two patients are needed: some to train on, others to test with")
    return local.rows(np.flatnonzero(~held)), local.rows(np.flatnonzero(held))


def _draw(pool: Cases, count: int, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of `count` cases; of every class one at least where there is room."""
    order = rng.permutation(len(pool))
    if classes and count >= classes:
        first = [order[pool.target[order] == one][:1] for one in range(classes)]
        order = np.array(list(dict.fromkeys([*np.concatenate(first).tolist(), *order.tolist()])))
    return order[:count].astype(np.int64)


def _training(
    arm: str, real: Cases, made: Cases, request: PersonalRequest, seed: int
) -> tuple[Cases, NDArray[np.bool_]]:
    """What an arm trains on of real cases and those `made`, and which of it is synthetic."""
    if arm == REAL:
        return real, np.zeros(len(real), bool)
    if arm == AUGMENTED:
        copies = augmented(real, seed)
        return copies, np.zeros(len(copies), bool)
    chosen = made.rows(np.sort(np.random.default_rng(seed).permutation(len(made))[: request.most_synthetic]))
    if arm == SYNTHETIC:
        return chosen, np.ones(len(chosen), bool)
    copies = augmented(real, seed)
    both = Cases(
        unit=np.concatenate([copies.unit, chosen.unit]),
        target=np.concatenate([copies.target, chosen.target]),
        patient=np.concatenate([copies.patient, chosen.patient + 1 + copies.patient.max()]),
    )
    return both, np.arange(len(both)) >= len(copies)


def augmented(real: Cases, seed: int) -> Cases:
    """About 1,000 shifted, zoomed and brightened copies of few cases, the cases themselves first.

    Masks are moved with their images, and not brightened.
    """
    times = max(1, -(-_COPIES // len(real)))
    rows = np.tile(np.arange(len(real)), times)
    config = TrainConfig(
        recipe="copies", size_px=real.unit.shape[1], total_kimg=1, backbone="dense", augment_p=0.9, augment_shift=0.1,
        augment_zoom=0.1, augment_gain=0.1, augment_bias=0.1,
    )  # fmt: skip
    import torch

    warp = Warp(config, len(rows), np.random.default_rng(seed))
    moved = warp(torch.from_numpy(real.unit[rows])[:, None])[:, 0].numpy()
    target = real.target[rows]
    if target.ndim > 1:  # masks
        target = segment.warped(warp, target)
    moved[: len(real)], target[: len(real)] = real.unit, real.target
    return Cases(unit=moved, target=target, patient=real.patient[rows])


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and its two-sided 95 % interval over seeds (Student's t)."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:  # noqa: PLR2004 - one number has no spread
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def gains(compared: Comparison) -> tuple[Gain, ...]:
    """Personalised minus each other arm, paired by seed; `gain` or `loss` only where the interval leaves out 0."""
    out = []
    for other in (AUGMENTED, GENERIC, REAL, SYNTHETIC):
        for count, values in compared.values[PERSONAL].items():
            paired = [a - b for a, b in zip(values, compared.values[other][count], strict=True)]
            mean, low, high = interval(paired)
            verdict: Literal["gain", "no clear difference", "loss"] = "no clear difference"
            verdict = "gain" if low > 0 else "loss" if high < 0 else verdict
            out.append(Gain(over=other, shots=count, mean=mean, low=low, high=high, verdict=verdict))
    return tuple(out)


def matching(compared: Comparison) -> tuple[Matching, ...]:
    """What personalising did with each number of cases, the most frequent first."""
    return tuple(
        Matching(shots=count, how=way, seeds=seeds)
        for count, ways in compared.how.items()
        for way, seeds in Counter(ways).most_common()
    )


def headline(found: tuple[Gain, ...], metric: str, matched: tuple[Matching, ...] = (), *, patients: int) -> str:
    """Sentences that do not promise more than was seen."""
    parts = [
        f"{one.shots} real cases: {one.verdict} ({metric} {one.mean:+.3f}, 95 %: {one.low:+.3f} to {one.high:+.3f})"
        for one in found
        if one.over == AUGMENTED
    ]
    mostly = {one.shots: one.how for one in reversed(matched)}  # the most frequent stands first
    whole = [str(count) for count in sorted(mostly) if mostly[count] == match.WHOLE]
    few = f" It was tested on {patients} patients: too few to speak for others."
    told = f" With {' and '.join(whole)} real cases the release was taken whole: nothing in it was clearly nearer."
    return (
        "Personalised synthetic cases against classical augmentation. "
        + "; ".join(parts)
        + "."
        + (told if whole else "")
        + (few if patients < _FEW_PATIENTS else "")
    )


def _write(
    compared: Comparison, dataset: Dataset, cases: LocalCases, request: PersonalRequest, *, zones: Zones
) -> PersonalReport:
    found, matched = gains(compared), matching(compared)
    scores = []
    for arm, by_shots in compared.values.items():
        for count, values in by_shots.items():
            mean, low, high = interval(values)
            if compared.metric != "R2":  # an interval of seeds does not know that an area ends at 1
                low, high = max(low, 0.0), min(high, 1.0)
            scores.append(ArmScore(arm=arm, shots=count, mean=mean, low=low, high=high))
    whole = {
        "release": f"{dataset.name}@{dataset.version}",
        "request": request.model_dump(mode="json"),
        "cases": cases.model_dump(mode="json"),
        "metric": compared.metric,
        "values": {arm: {str(n): list(v) for n, v in by.items()} for arm, by in compared.values.items()},
        "gains": [one.model_dump(mode="json") for one in found],
        "matching": [one.model_dump(mode="json") for one in matched],
    }
    if compared.masks is not None:
        whole["dice"] = {
            "structures": _structures(cases, zones=zones),
            "values": {arm: {str(n): list(v) for n, v in by.items()} for arm, by in compared.masks.dice.items()},
        }
    text = json.dumps(whole, sort_keys=True, indent=1, allow_nan=False).encode()
    report = PersonalReport(
        release=f"{dataset.name}@{dataset.version}",
        manifest_sha256=sha256_hex(dataset.manifest.canonical()),
        cases=cases.cases,
        metric=compared.metric,
        test_images=len(compared.test),
        test_patients=len(np.unique(compared.test.patient)),
        scores=tuple(scores),
        gains=found,
        matching=matched,
        headline=headline(found, compared.metric, matched, patients=len(np.unique(compared.test.patient))),
        report_sha256=sha256_hex(text),
    )
    rendered = page.render(report, masks=compared.masks, names=_structures(cases, zones=zones))
    folder = local_cases.folder_of(cases.cases, zones=zones) / f"{dataset.name}-{dataset.version}"
    with local_cases.kept_apart(cases.cases, zones=zones):  # report and page are of one comparison
        durable.write_bytes(folder / PAGE, rendered.encode())
        durable.write_bytes(folder / REPORT, text)
    return report


def _structures(cases: LocalCases, *, zones: Zones) -> tuple[str, ...]:
    """What the page and the report beside the cases call their structures; no record of ours holds a team's words."""
    if not cases.structures:
        return ()
    return local_cases.structure_names(cases, zones=zones) or tuple(map(str, range(1, cases.structures + 1)))
