"""A generator that was really trained, for a moment only: its images are noise, its bytes are decided by the seed."""

from __future__ import annotations

from medgan.gan.train import train
from medgan.records import TrainedModel, TrainRequest, ValidatedCohort
from medgan.settings import Zones


def brief_model(cohort: ValidatedCohort, zones: Zones, *, kimg: float = 0.128, seed: int = 0) -> TrainedModel:
    return train(cohort, TrainRequest(recipe="xray_32_cpu", seed=seed, total_kimg=kimg), zones=zones)
