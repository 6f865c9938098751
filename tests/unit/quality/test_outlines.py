"""What a report says of masks: Dice on patients nobody learned from, and whether masks are a patient's."""

from __future__ import annotations

import json

import pytest

from medgan.cohort import read, synthetic
from medgan.cohort.outlines import COLOURS
from medgan.quality import measure, outlines
from medgan.records import CohortSpec
from medgan.settings import Zones
from medgan.synthesis.generate import generate
from tests.builders.cohort import STRUCTURES
from tests.builders.model import brief_outliner


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    zones = Zones.under(tmp_path_factory.mktemp("outlines"))
    model, cohort = brief_outliner(zones)
    return model, cohort, generate(model, CohortSpec(images=96), zones=zones, workers=1), zones


def test_the_report_tells_dice_and_shows_outlines(made):
    model, cohort, synthetic_cohort, zones = made
    report = measure.measure(synthetic_cohort, cohort, zones=zones)
    told = {one.name: one.value for one in report.measures}
    assert [told[f"dice_of_{name}"] for name in STRUCTURES] == list(model.outliner.dice)
    assert 0 <= told["nearest_mask_is_train"] <= 1
    home = synthetic.folder(synthetic_cohort.synthetic, zones=zones)
    told = json.loads((home / measure.REPORT).read_bytes())
    assert told["structures"] == list(STRUCTURES)
    assert told["masks_sha256"] == report.masks_sha256 == synthetic_cohort.masks_sha256
    page = (home / measure.PAGE).read_text()
    assert page.count("data:image/png") == 2
    assert all(f"rgb{colour}" in page for colour in COLOURS[: len(STRUCTURES)])
    other = synthetic_cohort.model_copy(update={"masks_sha256": "0" * 64})
    assert measure._finished(home, synthetic_cohort) == report
    assert measure._finished(home, other) is None, "a report about other masks is measured anew"


def test_copies_of_train_masks_are_told_from_masks_of_nobody(made):
    model, cohort, _, zones = made
    real = read.load(cohort.cohort, zones=zones)
    train, held = ((real.table["split"] == "train").to_numpy() == wanted for wanted in (True, False))
    nearer = {}
    for name, rows in (("train", train), ("held", held)):
        nearer[name] = outlines.measures(model.outliner, real.masks[rows], real)[-1].value
    assert nearer["held"] == 0
    assert nearer["train"] > 0.5
