"""A team's masks meet a release's: the same structures, moved with their images, judged by Dice on other patients."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medgan.client import load
from medgan.errors import InvalidRequest
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig
from medgan.personal import acquisition, fit, match, segment
from medgan.personal import cases as local_cases
from medgan.personal.cases import Cases
from medgan.personal.fit import ARMS, PERSONAL, REAL, SYNTHETIC
from medgan.personal.unet import Segmenter
from medgan.records import LocalCases, PersonalRequest
from medgan.release import publish
from medgan.settings import Zones
from tests.builders import release as build

QUICK = PersonalRequest(task="segmentation", shots=(6, 12), seeds=2, steps=3, most_synthetic=40)
STRUCTURES = ("lung", "bone")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with one published version with masks, opened."""
    zones = Zones.under(tmp_path_factory.mktemp("masks"))
    built = build.synthetic_cohort(zones, count=120, structures=STRUCTURES)
    release = publish.publish(built.cleared, build.request(), zones=zones)
    return zones, load.open_folder(zones.registry / release.name / release.version)


@pytest.fixture
def team_file(tmp_path):
    """60 radiographs of 30 patients with the team's masks: its structures are named in another order."""
    images, _ = build.radiographs(60, start=1200)
    masks = np.array([0, 2, 1])[build.masks_of(images)]
    patient = np.array([f"Doe^{number // 2}" for number in range(60)])
    np.savez(tmp_path / "team.npz", images=images, masks=masks, structures=np.array(["bone", "lung"]), patient=patient)
    return tmp_path / "team.npz"


def toy(count=40, seed=0):
    """A bright square somewhere, and the mask of it."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(-0.5, 0.1, (count, 16, 16)).astype(np.float32)
    masks = np.zeros((count, 16, 16), np.uint8)
    for number, (top, left) in enumerate(rng.integers(1, 9, (count, 2))):
        masks[number, top : top + 6, left : left + 6] = 1
    unit[masks == 1] += 1
    return Cases(unit=unit.clip(-1, 1), target=masks, patient=np.arange(count) // 2)


def test_masks_are_registered_with_no_name_of_a_patient_or_structure_in_the_record(made, team_file):
    record = local_cases.register(team_file, zones=made[0])
    assert local_cases.register(team_file, zones=made[0]) == record
    assert (record.structures, record.classes, record.task) == (2, 0, "segmentation")
    assert "lung" not in record.model_dump_json()
    assert local_cases.structure_names(record, zones=made[0]) == ("bone", "lung")
    folder = local_cases.folder_of(record.cases, zones=made[0])
    assert all(b"Doe" not in path.read_bytes() for path in folder.iterdir())
    with pytest.raises(InvalidRequest, match="no such target"):
        local_cases.load(record, 32, zones=made[0])


def test_records_of_cases_without_masks_keep_their_bytes():
    record = LocalCases(cases="ca-" + "0" * 32, content_sha256="0" * 64, images=1, patients=1, classes=2)
    assert b"structures" not in record.canonical()
    assert record.task == "classification"


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"masks": np.zeros((4, 8, 8))}, "whole numbers"),
        ({"masks": np.zeros((4, 8, 7), int)}, "whole numbers"),
        ({"masks": np.zeros((3, 8, 8), int)}, "whole numbers"),
        ({"masks": np.zeros((4, 8, 8), int)}, "values from 0"),
        ({"masks": np.full((4, 8, 8), -1)}, "values from 0"),
        ({"masks": np.full((4, 8, 8), 300)}, "values from 0"),
        ({"masks": np.full((4, 8, 8), 2), "structures": np.array(["a"])}, "values from 0"),
        ({"masks": np.full((4, 8, 8), 2), "structures": np.array(["a", "a"])}, "names one twice"),
        ({"masks": np.ones((4, 8, 8), int), "structures": np.array([b"L\xfcge"])}, "bytes of ASCII"),
        ({"images": np.zeros((4, 0, 8)), "masks": np.zeros((4, 0, 8), int)}, "need `images`"),
    ],
)
def test_masks_that_fit_no_image_are_told_why(arrays, told, tmp_path, made):
    np.savez(tmp_path / "x.npz", **{"images": np.zeros((4, 8, 8))} | arrays)
    with pytest.raises(InvalidRequest, match=told):
        local_cases.register(tmp_path / "x.npz", zones=made[0])


def test_release_masks_come_with_the_teams_values_and_what_it_did_not_ask_for_is_background(made):
    dataset = made[1]
    ours = local_cases.synthetic_masks(dataset, ("bone",), 1, most=500)
    expected = local_cases.to_masks((dataset.masks == 2).astype(np.uint8), 32)
    assert np.array_equal(ours.target, expected)
    by_number = local_cases.synthetic_masks(dataset, (), 2, most=500)
    assert np.array_equal(by_number.target, local_cases.to_masks(dataset.masks, 32))
    with pytest.raises(InvalidRequest, match="lacks 1 of the cases' 2 structures; it outlines lung, bone"):
        local_cases.synthetic_masks(dataset, ("lung", "heart"), 2, most=10)
    with pytest.raises(InvalidRequest, match="lacks 1 of the cases' 3"):
        local_cases.synthetic_masks(dataset, (), 3, most=10)


def test_a_release_without_masks_is_refused_for_segmentation(published, team_file):
    record = local_cases.register(team_file, zones=published.zones)
    with pytest.raises(InvalidRequest, match="has no masks"):
        fit.personalise(load.open_folder(published.folder), record, QUICK, zones=published.zones)


def test_masks_are_resized_like_their_images():
    masks = np.zeros((1, 20, 40), np.uint8)
    masks[0, 5:15, 10:30] = 7
    small = local_cases.to_masks(masks, 16)
    image = local_cases.to_unit(masks.astype(float), 16)
    assert np.array_equal(small[0] == 7, image[0] > 0)
    assert set(np.unique(small)) == {0, 7}


def test_masks_move_with_their_images_and_keep_their_values():
    cases = toy(30)
    config = TrainConfig(recipe="x", size_px=16, total_kimg=1, backbone="dense", augment_p=0.9, augment_shift=0.2,
                         augment_zoom=0.1, augment_gain=0.5, augment_bias=0.5)  # fmt: skip
    warp = Warp(config, 30, np.random.default_rng(0))
    moved = segment.warped(warp, cases.target)
    plain = warp.map(lambda tensor: tensor)
    plain.gain_N, plain.bias_N = torch.ones(30), torch.zeros(30)
    followed = plain(torch.from_numpy(cases.target).float()[:, None])[:, 0].numpy()
    assert np.array_equal(moved == 1, followed > 0.5)
    assert not np.array_equal(moved, cases.target)
    copies = fit.augmented(cases, 1)
    assert copies.target.dtype == np.uint8
    assert np.array_equal(copies.target[:30], cases.target)


def test_dice_is_of_patients_and_of_what_they_have():
    truth, drawn = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    patient = np.array([0, 0, 1, 2])
    truth[0, :2], truth[1, :1], truth[2, :2] = 1, 1, 1
    drawn[0, :2], drawn[3, 0, 0] = 1, 1
    found = segment.dice(drawn, truth, patient, 2)
    assert found[0] == pytest.approx((2 * 8 / (8 + 12) + 0 + 0) / 3), "what is drawn where nothing is counts as wrong"
    assert np.isnan(found[1]), "no patient has the second structure"


def test_a_unet_learns_what_it_is_shown_and_twice_the_same():
    cases = toy(40)
    learner = Segmenter(structures=1, steps=60, real=40)
    learner.fit(cases, np.zeros(40, bool), seed=0)
    test = toy(20, 1)
    scores = learner.predict(test.unit)
    assert scores.shape == (20, 2, 16, 16)
    assert scores.sum(1) == pytest.approx(np.ones((20, 16, 16)), abs=1e-5)
    assert segment.dice(scores.argmax(1), test.target, test.patient, 1)[0] > 0.85
    learner.fit(cases, np.zeros(40, bool), seed=0)
    assert np.array_equal(learner.predict(test.unit), scores)


class Bright:
    """A team's own learner: bright pixels are the structure; it notes what it was given."""

    log: list = []  # noqa: RUF012

    def fit(self, cases, synthetic_N, *, seed):
        self.log.append((cases, synthetic_N, seed))

    def predict(self, unit_NHW):
        return np.stack([-unit_NHW, unit_NHW], 1).astype(np.float64)


@pytest.mark.parametrize(
    ("structures", "answer"),
    [
        (1, lambda x: np.zeros(x.shape)),
        (1, lambda x: np.zeros((len(x), 1, *x.shape[1:]))),
        (1, lambda x: np.zeros((*x.shape, 2))),
        (1, lambda x: np.full((len(x), 2, *x.shape[1:]), np.nan)),
        (1, lambda _: None),
        (0, lambda x: np.zeros((len(x), 3))),
        (0, lambda _: np.zeros(1)),
        (0, lambda x: np.full((len(x), 2), np.nan)),
        (0, lambda x: [["a", "b"]] * len(x)),
    ],
)
def test_a_learner_that_answers_something_else_is_told_what_is_wanted(structures, answer):
    class Wrong(Bright):
        def predict(self, unit_NHW):
            return answer(unit_NHW)

    local, made = toy(20), toy(30, 1)
    if not structures:
        local, made = (replace(one, target=np.arange(len(one)) % 2) for one in (local, made))
    with pytest.raises(InvalidRequest, match="finite numbers of shape"):
        fit.compare(local, made, QUICK, classes=0 if structures else 2, structures=structures,
                    make_learner=lambda _: Wrong())  # fmt: skip


def test_names_of_classes_and_of_structures_are_told_apart(tmp_path, made):
    arrays = {"images": np.zeros((4, 8, 8)), "masks": np.ones((4, 8, 8), int), "target": np.zeros(4, int)}
    handles = set()
    for names in ({"classes": np.array(["a", "b"])}, {"classes": np.array(["a"]), "structures": np.array(["b"])}):
        np.savez(tmp_path / "x.npz", **arrays, **names)
        handles.add(local_cases.register(tmp_path / "x.npz", zones=made[0]).cases)
    assert len(handles) == 2


def test_a_teams_own_learner_gets_masks_as_targets_in_every_arm():
    Bright.log = []
    compared = fit.compare(toy(40), toy(60, 1), QUICK, classes=0, structures=1, make_learner=lambda _: Bright())
    assert compared.metric == "Dice"
    assert set(compared.values) == set(ARMS)
    assert all(value > 0.9 for by in compared.values.values() for values in by.values() for value in values)
    assert all(cases.target.shape == cases.unit.shape for cases, _, _ in Bright.log)
    assert any(synthetic.any() and not synthetic.all() for _, synthetic, _ in Bright.log)
    empty = Cases(unit=toy().unit, target=np.zeros((40, 16, 16), np.uint8), patient=np.arange(40))
    with pytest.raises(InvalidRequest, match="no test patient"):
        fit.compare(empty, toy(60, 1), QUICK, classes=0, structures=1)


def test_a_release_with_masks_and_a_teams_masks_become_a_report_with_outlines(made, team_file):
    zones, dataset = made
    record = local_cases.register(team_file, zones=zones)
    report = fit.personalise(dataset, record, QUICK, zones=zones)
    assert report.metric == "Dice"
    assert "lung" not in report.model_dump_json(), "a structure may be called anything, and the report is a result"
    assert all(0 <= one.mean <= 1 for one in report.scores)
    folder = local_cases.folder_of(record.cases, zones=zones) / f"{dataset.name}-{dataset.version}"
    whole = json.loads((folder / fit.REPORT).read_text())
    assert whole["dice"]["structures"] == ["bone", "lung"]
    assert [len(seeds) for seeds in whole["dice"]["values"][REAL]["6"]] == [2, 2]
    assert np.mean(whole["dice"]["values"][REAL]["6"][0]) == pytest.approx(whole["values"][REAL]["6"][0])
    page = (folder / fit.PAGE).read_text()
    for words in ("<th>bone<th>lung", "data:image/png;base64,", SYNTHETIC, PERSONAL):
        assert words in page
    assert "Doe^" not in page
    with pytest.raises(InvalidRequest, match="does not fit"):
        fit.personalise(dataset, record, PersonalRequest(task="classification"), zones=zones)


def test_masks_follow_their_images_into_another_field_of_view():
    rng = np.random.default_rng(0)
    corner_N2 = rng.integers(6, 16, (40, 2))
    masks = np.zeros((40, 32, 32), np.uint8)
    for mask, (row, column) in zip(masks, corner_N2, strict=True):
        mask[row : row + 8, column : column + 8] = 1
    made = Cases(unit=masks * np.float32(1.6) - np.float32(0.8), target=masks, patient=np.arange(40))
    narrower = acquisition.fit(made.unit, made.unit)
    axis = acquisition._zoom(1.25, 32)
    near = Cases(unit=(axis @ made.unit @ axis.T).astype(np.float32), target=masks, patient=made.patient)
    assert narrower.zoom == 1.0
    taken = match.Matcher(made, classes=0).made(made, match.SCANNED, near, share=0.5)
    assert acquisition.fit(made.unit, near.unit).zoom > 1.1
    bright = taken.unit > 0
    assert ((taken.target == 1) == bright).mean() > 0.97
    assert ((masks == 1) == bright).mean() < 0.97
