"""Attack a synthetic cohort as a policy asks, and write down the evidence beside it.

The reports are a function of the bytes of both cohorts and of the policy: a second run returns what stands there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from medgan.cohort import read, stored
from medgan.cohort import synthetic as made
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.privacy import attributes, judge, page, selftest, stages, whitebox
from medgan.privacy.evidence import Evidence, RealImages, collect
from medgan.privacy.guarantee import guarantee
from medgan.privacy.policy import Policy
from medgan.privacy.policy import load as load_policy
from medgan.privacy.tail import Tail, calibrate
from medgan.privacy.views import VIEW_PX, Views
from medgan.records import GateTest, PrivacyReport, SyntheticCohort, ValidatedCohort, Verdict, sha256_hex
from medgan.settings import Zones

GATE = 8
"""Generation of the tests: raise it when a cohort that was cleared before could be refused now."""
REPORT, PAGE, RECORD = "privacy.json", "privacy.html", "privacy-record.json"
_MOST_ROUNDS = 4
SEED = 0
"""Of the embeddings' training changes, of the planted copies and of the bootstrap: not of anything released."""


def attack(
    synthetic: SyntheticCohort, cohort: ValidatedCohort, *, zones: Zones, policy: str = "strict"
) -> PrivacyReport:
    """Run every test of `policy`, write `privacy.{json,html}` and the record, and return the record.

    Raises:
        InvalidRequest: no such policy; a synthetic cohort of another training cohort; a split without images or
            strangers; the model that this one was adapted from is gone.
        IntegrityError: any cohort's bytes are not what its record says.
    """
    limits = load_policy(policy)
    if not read.is_of(synthetic.cohort, cohort.cohort, zones=zones):
        raise InvalidRequest("this synthetic cohort was made from another training cohort")
    home = made.folder(synthetic.synthetic, zones=zones)
    images, labels, attrs, _ = made.load(synthetic, zones=zones, spool=True)
    finished = _finished(home, synthetic, limits)
    if finished is not None:
        return finished
    learned = stages.stages(synthetic.model, cohort.cohort, zones=zones)
    tests, report = _assess_stages(stages.views(images, attrs, learned[0].slices), learned, limits)
    found = report.pop("copies")
    tests += _attribute_tests(labels, cohort, limits, like=synthetic.spec.like, zones=zones)
    tests += guarantee(synthetic, limits, learned[0].counts["train patients"], zones=zones)
    report["record"] = whitebox.attack(synthetic.model, cohort, zones=zones)
    report["policy"] = limits.model_dump(mode="json")
    cleaning = _cleaning(synthetic, found, tests, limits, zones=zones)
    return _write(home, report, synthetic, limits, tests, learned, cleaning)


def assess(synthetic: Views, real: RealImages, limits: Policy) -> tuple[tuple[GateTest, ...], dict[str, Any]]:
    """Every test of images against images: the tests, and what a report says beside them."""
    evidence = collect(synthetic, real, seed=SEED)
    scale = calibrate(evidence.calibration, evidence.calibration_patients, limits)
    scores = scale.scores(evidence.synthetic)
    in_tail = scores >= scale.threshold
    planted = selftest.plant(evidence, real, scale, in_tail, limits, seed=SEED)
    tests = (
        judge.copies(evidence.synthetic.correlation, limits),
        judge.tail(int(in_tail.sum()), evidence.synthetic_images, scale, limits),
        *((judge.reidentification(evidence, limits),) if _several(real) else ()),
        *judge.membership(evidence, limits, seed=SEED),
        judge.authenticity(evidence, limits),
        judge.isolated_tail(evidence, scale, in_tail, limits),
        *judge.membership(evidence, limits, seed=SEED, isolated=True),
        *selftest.verdict(planted, limits),
    )
    report = {
        "counts": {"synthetic": evidence.synthetic_images, "twins left out": evidence.twins},
        "control": _control(evidence, scale),
        "copies": np.flatnonzero(evidence.synthetic.correlation >= limits.copies.correlation).tolist(),
        "embedding_sha256": evidence.embedding.digest,
        "planted": [asdict(one) for one in planted],
        "curves": page.curves(evidence, scale, scores),
        "tests": [test.model_dump(mode="json") for test in tests],
    }
    return tests, report


def _assess_stages(
    synthetic: dict[str, Views], learned: Sequence[stages.Stage], limits: Policy
) -> tuple[tuple[GateTest, ...], dict[str, Any]]:
    """`assess` beside every stage, and every plane of volumes, by itself: one that fails refuses all.

    The report's curves are those of the first, and `apart` tells of the others.
    """
    tests: tuple[GateTest, ...] = ()
    reports: dict[str, dict[str, Any]] = {}
    for stage in learned:
        for plane, real in stage.real.items():
            where = ", ".join(filter(None, (stage.name, plane)))
            found, report = assess(synthetic[plane], real, limits)
            tests += tuple(_of_part(test, where) for test in found)
            reports[where] = report | {"counts": report["counts"] | stage.counts}
    first, *others = reports.values()
    first["copies"] = sorted({row for report in reports.values() for row in report["copies"]})
    if others:
        told = ("control", "counts", "embedding_sha256", "planted")
        first["apart"] = {name: {key: report[key] for key in told} for name, report in reports.items()}
    return tests, first


def _of_part(test: GateTest, part: str) -> GateTest:
    return test.model_copy(update={"title": f"{test.title}, {part}"}) if part else test


def _several(real: RealImages) -> bool:
    """Whether some train patient has two images."""
    return len(set(real.train_patients)) < len(real.train_patients)


def _attribute_tests(
    labels: pd.DataFrame, cohort: ValidatedCohort, policy: Policy, *, like: str | None, zones: Zones
) -> tuple[GateTest, ...]:
    """G7 about the people whom the table follows: the training cohort's, or those of the cohort that was asked for."""
    followed = cohort.cohort if like is None or like.startswith("site:") else like
    table = read.load(followed, zones=zones).table
    train = table["split"] == "train"
    if train.all() or not train.any():
        raise InvalidRequest("the cohort that the attributes follow has no train or no holdout patients to compare")
    return attributes.attacks(labels, table[train], table[~train], policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """Near copies dropped and redrawn in `rounds` before this one, and the rows of this one that should be."""

    dropped: int = 0
    rounds: int = 0
    redraw: tuple[int, ...] = ()


def _cleaning(
    synthetic: SyntheticCohort, found: list[int], tests: tuple[GateTest, ...], policy: Policy, *, zones: Zones
) -> Cleaning:
    """Whether the copies found may be redrawn: few enough with those before, and nothing else refuses the cohort.

    A generator that copies more is not cleaned up: it has memorised, and what it makes instead is no better.
    """
    before = Cleaning()
    if synthetic.redrawn_from is not None:
        earlier = stored.record(made.folder(synthetic.redrawn_from, zones=zones) / RECORD, PrivacyReport)
        if earlier is not None and earlier.redraw:
            before = Cleaning(dropped=earlier.dropped + len(earlier.redraw), rounds=earlier.rounds + 1)
    allowed = policy.copies.dropped_most * synthetic.images
    alone = not any(not test.passed and test.conclusive for test in tests if test.test != "G1")
    alone = alone and policy.differential_privacy is None  # choosing images by real ones undoes that guarantee
    if found and alone and before.dropped + len(found) <= allowed and before.rounds < _MOST_ROUNDS:
        return replace(before, redraw=tuple(found))
    return before


def _with_dropped(test: GateTest, dropped: int) -> GateTest:
    return test.model_copy(update={"detail": f"{test.detail}; {dropped} were dropped and redrawn before"})


def decide(
    tests: tuple[GateTest, ...],
    policy: Policy,
    *,
    holdout_patients: int,
    not_applicable: frozenset[str] = frozenset(),
) -> Verdict:
    """Refused if anything failed for good; inconclusive if something stayed open and the policy minds; else cleared.

    A policy may put up with too few people to decide, never with evidence of a leak: what is open and has its estimate
    beyond the limit clears under none.
    """
    if any(not test.passed and test.conclusive for test in tests):
        return Verdict.REFUSED
    ran = {test.test for test in tests} | not_applicable
    if holdout_patients < policy.least_holdout_patients or not ran.issuperset(policy.required):
        return Verdict.INCONCLUSIVE
    if any(test.adverse or not (test.conclusive or policy.inconclusive_may_pass) for test in tests):
        return Verdict.INCONCLUSIVE
    return Verdict.CLEARED


def not_tested(
    tests: tuple[GateTest, ...], patients: dict[str, int], *, volumes: bool = False, masks: bool = False
) -> tuple[str, ...]:
    """What no test of this run looked at, in words for the report and the datasheet."""
    ran = {test.test for test in tests}
    several = patients["train images"] > patients["train patients"]
    reasons = {
        "G3": "G3 re-identification of a patient: " + ("not run" if several else "no patient has two images"),
        "G6": "G6 isolated records: not run",
        "G7": "G7 attributes of the released table: not run",
        "G8": "G8 differential privacy: the generator was trained without it",
    }
    return (
        *(reason for test, reason in reasons.items() if test not in ran),
        *(["masks: a network drew them from these images alone; the quality report compares them"] if masks else []),
        *(["volumes: five planes of each were compared, none of those between them"] if volumes else []),
        f"detail finer than {VIEW_PX} px: larger images are compared at that size",
        "leaks that survive none of the embeddings, such as a small part of one image in another",
        "attackers who know the networks' weights: they are not released (the discriminator's: see the record)",
    )


def _control(evidence: Evidence, scale: Tail) -> dict[str, Any]:
    """False alarms: fresh images of holdout-2, which neither trained nor calibrated anything, beyond the threshold."""
    return {"images": len(evidence.control.correlation), "hits": int(scale.hits(evidence.control).sum())}


def _finished(home: Path, synthetic: SyntheticCohort, policy: Policy) -> PrivacyReport | None:
    path = home / RECORD
    if not path.is_file() or not (home / REPORT).is_file() or not (home / PAGE).is_file():
        return None
    try:
        record = PrivacyReport.model_validate_json(path.read_bytes())
    except ValidationError:  # an older gate's: judged anew
        return None
    judged = (record.gate, record.pixel_sha256, record.labels_sha256, record.masks_sha256, record.policy_sha256)
    ours = (synthetic.pixel_sha256, synthetic.labels_sha256, synthetic.masks_sha256)
    same = judged == (GATE, *ours, policy.digest)
    whole = sha256_hex((home / REPORT).read_bytes()) == record.report_sha256
    return record if same and whole else None


def _write(
    home: Path,
    report: dict[str, Any],
    synthetic: SyntheticCohort,
    policy: Policy,
    tests: tuple[GateTest, ...],
    learned: Sequence[stages.Stage],
    cleaning: Cleaning,
) -> PrivacyReport:
    """The whole report, its page, then the record that binds them to the cohort's bytes."""
    report["counts"] |= {"near copies dropped and redrawn": cleaning.dropped}
    if cleaning.dropped:
        tests = tuple(_with_dropped(test, cleaning.dropped) if test.test == "G1" else test for test in tests)
    patients = learned[0].counts
    volumes, masks = len(learned[0].real) > 1, synthetic.masks_sha256 is not None
    untested = not_tested(tests, patients, volumes=volumes, masks=masks)
    single = patients["train images"] == patients["train patients"]
    verdict = decide(
        tests,
        policy,
        holdout_patients=min(one.counts[f"{name} patients"] for one in learned for name in ("holdout-1", "holdout-2")),
        not_applicable=frozenset({"G3"}) if single else frozenset(),
    )
    report |= {"tests": [test.model_dump(mode="json") for test in tests], "not_tested": untested}
    report |= {"synthetic": synthetic.synthetic, "pixel_sha256": synthetic.pixel_sha256, "verdict": verdict.value}
    report |= {"masks_sha256": synthetic.masks_sha256} if synthetic.masks_sha256 else {}
    text = json.dumps(plain(report), sort_keys=True, indent=1, allow_nan=False).encode()
    record = PrivacyReport(
        synthetic=synthetic.synthetic,
        cohort=synthetic.cohort,
        pixel_sha256=synthetic.pixel_sha256,
        labels_sha256=synthetic.labels_sha256,
        masks_sha256=synthetic.masks_sha256,
        gate=GATE,
        policy=policy.name,
        policy_sha256=policy.digest,
        verdict=verdict,
        tests=tests,
        not_tested=untested,
        dropped=cleaning.dropped,
        rounds=cleaning.rounds,
        redraw=cleaning.redraw,
        report_sha256=sha256_hex(text),
    )
    durable.write_bytes(home / REPORT, text)
    durable.write_bytes(home / PAGE, page.render(json.loads(text)).encode())
    durable.write_bytes(home / RECORD, record.canonical())
    return record


def plain(value: Any) -> Any:
    """Numpy values and tuples to what JSON has."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
