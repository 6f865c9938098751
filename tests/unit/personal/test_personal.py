"""A team's cases meet a release: fair arms, paired intervals, and a report that does not promise what was not seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from medgan.client import load
from medgan.errors import IntegrityError, InvalidRequest
from medgan.personal import acquisition, fit, match
from medgan.personal import cases as local_cases
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
    (folder / f".{local_cases.CASES}.7.partial").write_bytes(b"what a killed run left")
    assert local_cases.register(team_file, zones=published.zones) == first
    assert sorted(path.name for path in folder.iterdir()) == [local_cases.RECORD, local_cases.CASES]
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
    with pytest.raises(InvalidRequest, match="no numbers"):
        local_cases.synthetic(dataset, (), most=10)


@pytest.mark.parametrize("classes", [0, 2])
def test_a_test_in_which_all_are_alike_is_refused_in_words(classes):
    cases = toy()
    alike = Cases(unit=cases.unit, target=np.zeros_like(cases.target), patient=cases.patient)
    with pytest.raises(InvalidRequest, match="same target"):
        fit.compare(alike, toy(80, 1), QUICK, classes=classes)


def test_no_patient_is_in_training_and_test_and_arms_get_what_they_are_called():
    Seen.log = []
    compared = fit.compare(toy(), toy(80, 1), QUICK, classes=2, make_learner=lambda _: Seen())
    pool = {tuple(image.ravel()[:9]) for image in compared.test.unit}
    by_size = [(len(cases), int(synthetic.sum())) for cases, synthetic, _ in Seen.log]
    for cases, synthetic, _ in Seen.log:
        real = cases.unit[~synthetic]
        assert all(tuple(image.ravel()[:9]) not in pool for image in real)
    assert by_size[:4] == [(6, 0), (1002, 0), (80, 80), (1082, 80)]
    assert set(compared.values) == {REAL, AUGMENTED, SYNTHETIC, GENERIC, PERSONAL}


def blobs(count, seed):
    """Two soft discs side by side that move a little, brighter where the class is 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] - 15.5
    down, right = rng.normal(0, 0.7, (2, count, 1, 1))
    discs = sum(np.exp(-((y - down) ** 2 + (x - right - aside) ** 2) / 18) for aside in (-7, 7))
    target = rng.integers(2, size=count)
    unit = discs * (1 + 0.5 * target[:, None, None]) + 0.2 * rng.random((count, 32, 32)) - 0.9
    return Cases(unit=unit.clip(-1, 1).astype(np.float32), target=target, patient=np.arange(count))


def elsewhere(cases):
    """The same from a scanner with a narrower field of view, a softer detector and another tone curve."""
    near = np.stack([ndimage.zoom(image[3:29, 3:29], 32 / 26, order=1) for image in cases.unit])
    soft = ndimage.gaussian_filter(near, (0, 0.8, 0.8))
    return replace(cases, unit=(2 * ((soft + 1) / 2).clip(0, 1) ** 0.6 - 1).astype(np.float32))


def test_ten_cases_tell_how_another_scanner_takes_its_images():
    found = acquisition.fit(blobs(300, 1).unit, elsewhere(blobs(10, 2)).unit)
    assert 1.1 < found.zoom < 1.35
    assert 0.5 < found.blur_px < 1.1
    fresh, wanted = blobs(200, 3), elsewhere(blobs(200, 3))
    gap = [np.abs(images.mean(0) - wanted.unit.mean(0)).mean() for images in (fresh.unit, found(fresh.unit))]
    assert gap[1] < 0.5 * gap[0]
    assert (np.diff(found.goals) >= 0).all(), "tones keep their order"


def test_ten_noisy_cases_tell_noise_from_sharpness():
    soft = ndimage.gaussian_filter(blobs(10, 2).unit, (0, 0.8, 0.8))
    noisy = soft + np.random.default_rng(0).normal(0, 0.02, soft.shape).astype(np.float32)
    quiet, found = (acquisition.fit(blobs(300, 1).unit, one) for one in (soft, noisy))
    assert quiet.noise < 0.01
    assert found.noise == pytest.approx(0.02, abs=0.005)
    assert found.blur_px == pytest.approx(quiet.blur_px, abs=0.15), "noise does not pass for sharpness"
    made = found(blobs(200, 3).unit)
    assert np.array_equal(made, found(blobs(200, 3).unit)), "the same images get the same noise"
    assert np.abs(made).max() <= 1
    assert np.quantile(made, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(noisy, [0.1, 0.5, 0.9]), abs=0.08)


def test_nothing_is_matched_to_cases_of_the_releases_own_kind():
    matcher = match.Matcher(blobs(300, 1), classes=2)
    assert [matcher.choose(blobs(20, seed), share=0.5) for seed in range(10, 16)] == [match.WHOLE] * 6
    assert matcher.choose(blobs(4, 9), share=0.5) == match.WHOLE, "four patients are no evidence"


def test_empty_cases_say_nothing_of_an_acquisition_and_break_nothing():
    made, empty = blobs(60, 1).unit, np.full((3, 32, 32), -1, np.float32)
    found = acquisition.fit(made, empty)
    assert found.zoom == 1
    assert np.isfinite(found(made)).all()


def test_cases_of_another_scanner_ask_for_its_acquisition():
    matcher = match.Matcher(blobs(300, 1), classes=2)
    assert matcher.choose(elsewhere(blobs(12, 10)), share=0.5) in {match.SCANNED, match.BOTH}


def striped(cases):
    unit = cases.unit.copy()
    unit[:, ::2] = np.random.default_rng(5).uniform(0.5, 1, unit[:, ::2].shape)
    return replace(cases, unit=unit)


def test_a_subgroup_asks_for_the_part_of_the_release_that_looks_like_it():
    near, far = toy(150, 4), striped(toy(150, 5))
    both = Cases(
        unit=np.concatenate([near.unit, far.unit]),
        target=np.concatenate([near.target, far.target]),
        patient=np.arange(300),
    )
    matcher, local = match.Matcher(both, classes=2), toy(30, 6)
    assert matcher.choose(local, share=0.5) in {match.NEAREST, match.BOTH}
    kept = matcher.made(both, match.NEAREST, local, share=0.5)
    assert (kept.patient < 150).mean() > 0.8


def test_a_whole_release_is_the_generic_arm_and_the_report_says_so():
    Seen.log = []
    compared = fit.compare(toy(120), toy(80, 1), QUICK, classes=2, make_learner=lambda _: Seen())
    assert {how for ways in compared.how.values() for how in ways} == {match.WHOLE}
    assert compared.values[PERSONAL] == compared.values[GENERIC]
    assert len(Seen.log) == QUICK.seeds * (4 + 3), "no model is trained twice on the same cases"
    told = fit.headline(fit.gains(compared), "AUC", fit.matching(compared), patients=10)
    assert "With 6 and 20 real cases the release was taken whole" in told
    assert "too few to speak for others" not in told


def test_intervals_that_hold_zero_are_never_called_a_gain():
    values = {arm: {10: [0.8, 0.8, 0.8]} for arm in fit.ARMS}
    values[PERSONAL] = {10: [0.9, 0.7, 0.81]}
    values[REAL] = {10: [0.5, 0.3, 0.42]}
    values[SYNTHETIC] = {10: [0.95, 0.76, 0.85]}
    found = {
        one.over: one for one in fit.gains(fit.Comparison(metric="AUC", values=values, test=toy(), how={10: ["x"]}))
    }
    assert found[AUGMENTED].verdict == "no clear difference"
    assert found[REAL].verdict == "gain"
    assert found[SYNTHETIC].verdict == "loss"
    told = fit.headline(tuple(found.values()), "AUC", patients=2)
    assert "no clear difference" in told
    assert "tested on 2 patients: too few to speak for others" in told


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
    assert report.matching[0].how in page
    assert "Doe" not in page
    assert "http" not in page


def test_numbers_are_learned_too():
    cases = toy(200, 8)
    score = Cases(unit=cases.unit, target=cases.unit.mean((1, 2)).astype(np.float64) * 50 + 60, patient=cases.patient)
    learner = Cnn(classes=0, steps=80, real=200)
    learner.fit(score, np.zeros(200, bool), seed=0)
    predicted = learner.predict(score.unit)
    assert fit.score(predicted, score.target, 0) > 0.5
    learner.fit(score, np.zeros(200, bool), seed=0)
    assert (learner.predict(score.unit) == predicted).all(), "the same cases and seed give the same model"


def test_the_fewer_real_cases_there_are_the_more_synthetic_ones_stay_to_the_end():
    real, made = np.arange(1000), np.arange(1000, 3000)
    shares = []
    for count in (10, 50, 1000):
        learner = Cnn(classes=2, steps=1, real=count)
        begin, end = (learner._drawn(real, made, progress, np.random.default_rng(0)) for progress in (0, 1))
        assert len(begin) == len(end) == learner.batch
        assert (begin >= 1000).mean() == pytest.approx(0.8, abs=0.02)
        shares.append((end >= 1000).mean())
    assert shares == pytest.approx([0.67, 0.4, 0.04], abs=0.02)


def test_a_task_that_does_not_fit_the_cases_is_refused(team_file, published):
    record = local_cases.register(team_file, zones=published.zones)
    dataset = load.open_folder(published.folder)
    with pytest.raises(InvalidRequest, match="does not fit"):
        fit.personalise(dataset, record, PersonalRequest(task="regression"), zones=published.zones)
    with pytest.raises(InvalidRequest, match="real training cases are asked for"):
        fit.personalise(dataset, record, PersonalRequest(shots=(500,)), zones=published.zones)
