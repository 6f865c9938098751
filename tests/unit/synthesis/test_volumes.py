from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgan.cohort import synthetic
from medgan.errors import InvalidRequest
from medgan.gan.train import train
from medgan.quality import classifier
from medgan.records import CohortSpec, TrainRequest, ValidatedCohort
from medgan.settings import Zones
from medgan.synthesis.dispatch import Run
from medgan.synthesis.generate import generate
from tests.builders.volumes import volume_cohort


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A generator of volumes, trained for one step on a cohort of the collection's series."""
    zones = Zones.under(tmp_path_factory.mktemp("volumes"))
    snapshot = volume_cohort(zones, 60)
    cohort = ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)
    return train(cohort, TrainRequest(recipe="mr_volume_32_cpu", total_kimg=0.016), zones=zones), zones


def test_volumes_are_the_same_bytes_whatever_the_block(volumes, tmp_path, scheduler):
    model, zones = volumes
    spec = CohortSpec(images=32, series_length=32, images_per_patient=2)
    made = [
        generate(
            model,
            spec,
            zones=dataclasses.replace(zones, synthetic=tmp_path / str(n)),
            run=Run(scheduler=scheduler, block_images=n),
        )
        for n in (16, 32)
    ]
    assert made[0] == made[1]
    assert made[0].patients < 32
    loaded = synthetic.load(made[0], zones=dataclasses.replace(zones, synthetic=tmp_path / "16"))
    assert loaded.images.shape == (32, 32, 32, 32)
    assert loaded.attrs["spacing_mm"] == pytest.approx([4.375] * 3)
    assert not np.array_equal(loaded.images[0], loaded.images[1])


def test_the_label_check_looks_at_volumes(volumes, tmp_path, scheduler):
    model, zones = volumes
    spec = CohortSpec(images=16, redraw_attempts=1, class_shares={"normal": 1.0})
    zones = dataclasses.replace(zones, synthetic=tmp_path)
    made = generate(model, spec, zones=zones, scheduler=scheduler)
    assert made.fidelity is not None
    loaded = synthetic.load(made, zones=zones)
    seen = classifier.of_model(model, zones).sees(loaded.images, loaded.attrs, loaded.labels["id"].to_numpy())
    assert made.fidelity.synthetic == pytest.approx(np.mean(seen == model.classes.index("normal")), abs=1e-6)


def test_a_series_of_another_length_than_the_model_makes_is_refused(volumes, tmp_path, scheduler):
    model, zones = volumes
    with pytest.raises(InvalidRequest, match="makes series of 32"):
        generate(
            model,
            CohortSpec(images=16, series_length=20),
            zones=dataclasses.replace(zones, synthetic=tmp_path),
            scheduler=scheduler,
        )
