"""A team's cases meet a release: fair arms, paired intervals, and a report that does not promise what was not seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medgan.client import load
from medgan.errors import IntegrityError, InvalidRequest
from medgan.personal import cases as local_cases
from medgan.personal import fit, match
from medgan.personal.cases import Cases
from medgan.personal.fit import AUGMENTED, GENERIC, PERSONAL, REAL, SYNTHETIC
from medgan.personal.learner import Cnn
from medgan.records import PersonalRequest

QUICK = PersonalRequest(shots=(6, 20), seeds=2, steps=10, most_synthetic=150)


class Seen:
    """A learner that notes what it is given and scores by mean brightness."""

    log: list = []  # noqa: RUF012

    def fit(self, cases, synthetic_N, *, seed):
        self.log.append((cases, synthetic_N, seed))

    def predict(self, unit_NHW):
        bright = (unit_NHW.mean((1, 2)) + 1) / 2
        return np.stack([1 - bright, bright], 1)


def toy(count=60, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.integers(2, size=count)
    unit = rng.normal(-0.3, 0.2, (count, 16, 16)).astype(np.float32)
    unit[target == 1, 4:10, 4:10] += 0.6
    return Cases(unit=unit.clip(-1, 1), target=target, patient=np.arange(count) // 2)


def test_registering_twice_gives_one_record_and_no_name_of_a_patient(team_file, published):
    first = local_cases.register(team_file, zones=published.zones)
    assert local_cases.register(team_file, zones=published.zones) == first
    assert (first.images, first.patients, first.classes) == (120, 60, 2)
    assert "pneumonia" not in first.model_dump_json(), "a class may be called anything, and the record is a parameter"
    assert local_cases.class_names(first, zones=published.zones) == ("normal", "pneumonia")
    folder = local_cases.folder_of(first.cases, zones=published.zones)
    assert folder.is_relative_to(published.zones.pseudonymised)
    assert all(b"Doe" not in path.read_bytes() for path in folder.iterdir())
    with np.load(folder / local_cases.CASES, allow_pickle=False) as held:
        assert held["patient"].dtype == np.int64


def test_a_record_that_is_not_the_stored_one_is_refused(team_file, published):
    record = local_cases.register(team_file, zones=published.zones)
    with pytest.raises(IntegrityError):
        local_cases.load(record.model_copy(update={"images": 3}), 32, zones=published.zones)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": np.zeros((4, 8, 8))}, "`target`"),
        ({"images": np.zeros((4, 8)), "target": np.zeros(4, int)}, "one `target` or mask an image"),
        ({"images": np.zeros((4, 8, 8)), "target": np.zeros(3, int)}, "one `target` an image"),
        ({"images": np.zeros((4, 8, 8)), "target": np.zeros((4, 8, 8), int)}, "given as `masks`"),
        ({"images": np.full((2, 8, 8), np.nan), "target": np.zeros(2, int)}, "not finite"),
        ({"images": np.zeros((2, 8, 8)), "target": np.array([0.0, np.inf])}, "not finite"),
        ({"images": np.zeros((2, 8, 8)), "target": np.array([0, 7]), "classes": np.array(["a"])}, "outside"),
        ({"images": np.zeros((2, 8, 8)), "target": np.array([0, 10**13])}, "index below"),
        ({"images": np.zeros((2, 8, 8)), "target": np.array([0, 1j])}, "index below"),
    ],
)
def test_a_file_that_is_no_case_file_is_told_why(arrays, told, tmp_path, published):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InvalidRequest, match=told):
        local_cases.register(tmp_path / "x.npz", zones=published.zones)


def test_a_file_that_is_broken_or_no_npz_is_told_so(tmp_path, team_file, published):
    np.save(tmp_path / "one.npy", np.zeros((2, 8, 8)))
    whole = team_file.read_bytes()
    (tmp_path / "flipped.npz").write_bytes(whole[:200] + bytes(50) + whole[250:])
    (tmp_path / "head.npz").write_bytes(whole[:100])
    for name in ("one.npy", "flipped.npz", "head.npz"):
        with pytest.raises(InvalidRequest, match="npz"):
            local_cases.register(tmp_path / name, zones=published.zones)


def test_release_rows_come_in_the_teams_order_of_classes(published):
    dataset = load.open_folder(published.folder)
    ours = local_cases.synthetic(dataset, ("pneumonia", "normal"), most=100)
    theirs = local_cases.synthetic(dataset, ("normal", "pneumonia"), most=100)
    assert (ours.target == 1 - theirs.target).all()
    assert np.bincount(ours.target).tolist() == [50, 50]
    with pytest.raises(InvalidRequest, match="does not know 1 of the cases' 2 classes"):
        local_cases.synthetic(dataset, ("normal", "fracture"), most=10)


def test_no_patient_is_in_training_and_test_and_arms_get_what_they_are_called():
    Seen.log = []
    compared = fit.compare(toy(), toy(80, 1), QUICK, classes=2, make_learner=lambda _: Seen())
    pool = {tuple(image.ravel()[:9]) for image in compared.test.unit}
    by_size = [(len(cases), int(synthetic.sum())) for cases, synthetic, _ in Seen.log]
    for cases, synthetic, _ in Seen.log:
        real = cases.unit[~synthetic]
        assert all(tuple(image.ravel()[:9]) not in pool for image in real)
    assert by_size[:5] == [(6, 0), (1002, 0), (80, 80), (1082, 80), (1042, 40)]
    assert set(compared.values) == {REAL, AUGMENTED, SYNTHETIC, GENERIC, PERSONAL}


def test_intensities_of_another_scanner_are_brought_over_in_order():
    synthetic = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(1, 64, 64)
    local = np.repeat(synthetic**3, 400, axis=0)
    made = match.harmonise(synthetic, local)
    assert (np.diff(made.ravel()) >= -1e-6).all()
    assert np.abs(made - synthetic**3).mean() < 0.35 * np.abs(synthetic - synthetic**3).mean()


def test_personalising_keeps_what_looks_like_the_local_cases():
    rng = np.random.default_rng(3)
    near, far = toy(60, 4), toy(60, 5)
    striped = far.unit.copy()
    striped[:, ::2] = rng.uniform(0.5, 1, (60, 8, 16))
    both = Cases(
        unit=np.concatenate([near.unit, striped]),
        target=np.concatenate([near.target, far.target]),
        patient=np.arange(120),
    )
    kept = match.Matcher(both, classes=2).personalise(toy(30, 6), share=0.5)
    assert (kept.patient < 60).mean() > 0.8


def test_intervals_that_hold_zero_are_never_called_a_gain():
    values = {arm: {10: [0.8, 0.8, 0.8]} for arm in fit.ARMS}
    values[PERSONAL] = {10: [0.9, 0.7, 0.81]}
    values[REAL] = {10: [0.5, 0.3, 0.42]}
    values[SYNTHETIC] = {10: [0.95, 0.76, 0.85]}
    found = {one.over: one for one in fit.gains(fit.Comparison(metric="AUC", values=values, test=toy()))}
    assert found[AUGMENTED].verdict == "no clear difference"
    assert found[REAL].verdict == "gain"
    assert found[SYNTHETIC].verdict == "loss"
    assert "no clear difference" in fit.headline(tuple(found.values()), "AUC")


def test_a_release_and_cases_become_a_report_and_a_page(team_file, published):
    record = local_cases.register(team_file, zones=published.zones)
    dataset = load.open_folder(published.folder)
    seen = []
    report = fit.personalise(
        dataset, record, QUICK, zones=published.zones, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (20, 20)
    assert report.test_patients == 30
    assert {one.shots for one in report.scores} == {6, 20}
    assert all(0 <= one.mean <= 1 for one in report.scores)
    folder = local_cases.folder_of(record.cases, zones=published.zones) / f"{dataset.name}-{dataset.version}"
    whole = json.loads((folder / fit.REPORT).read_text())
    assert len(whole["values"][PERSONAL]["6"]) == 2
    page = (folder / fit.PAGE).read_text()
    assert "Doe" not in page
    assert "http" not in page


def test_numbers_are_learned_too():
    cases = toy(200, 8)
    score = Cases(unit=cases.unit, target=cases.unit.mean((1, 2)).astype(np.float64) * 50 + 60, patient=cases.patient)
    learner = Cnn(classes=0, steps=80)
    learner.fit(score, np.zeros(200, bool), seed=0)
    predicted = learner.predict(score.unit)
    assert fit.score(predicted, score.target, 0) > 0.5
    learner.fit(score, np.zeros(200, bool), seed=0)
    assert (learner.predict(score.unit) == predicted).all(), "the same cases and seed give the same model"


def test_a_task_that_does_not_fit_the_cases_is_refused(team_file, published):
    record = local_cases.register(team_file, zones=published.zones)
    dataset = load.open_folder(published.folder)
    with pytest.raises(InvalidRequest, match="does not fit"):
        fit.personalise(dataset, record, PersonalRequest(task="regression"), zones=published.zones)
    with pytest.raises(InvalidRequest, match="real training cases are asked for"):
        fit.personalise(dataset, record, PersonalRequest(shots=(500,)), zones=published.zones)
