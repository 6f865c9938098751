"""A generator that was really trained, for a moment only: its images are noise, its bytes are decided by the seed."""

from __future__ import annotations

import pytest

from medgan.gan import outliner
from medgan.gan.train import train
from medgan.records import PrivacyBudget, TrainedModel, TrainRequest, ValidatedCohort
from medgan.settings import Zones
from tests.builders.cohort import masked_cohort


def brief_model(cohort: ValidatedCohort, zones: Zones, *, kimg: float = 0.128, seed: int = 0) -> TrainedModel:
    return train(cohort, TrainRequest(recipe="xray_32_cpu", seed=seed, total_kimg=kimg), zones=zones)


def brief_outliner(zones: Zones) -> tuple[TrainedModel, ValidatedCohort]:
    """A brief model of a cohort with masks, its outliner too learned for a shorter time than usual."""
    cohort = masked_cohort(zones)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outliner, "STEPS", 200)
        return brief_model(cohort, zones), cohort


def described_model(
    model: str, cohort: str, zones: Zones, *, snapshot: str = "main@builder", privacy: PrivacyBudget | None = None
) -> TrainedModel:
    """The record of a model in its place, without a generator behind it."""
    described = TrainedModel(
        model=model,
        cohort=cohort,
        collection_snapshot=snapshot,
        config_sha256="0" * 64,
        generator_sha256="0" * 64,
        classes=("normal", "pneumonia"),
        size_px=32,
        kimg=1,
        seconds=1,
        privacy=privacy,
    )
    path = zones.pseudonymised / "models" / model / "model.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(described.canonical())
    return described
