"""Small real training sets and configurations that train in a second."""

from dataclasses import replace

import numpy as np

from medgan.gan.config import TrainConfig
from medgan.gan.images import TrainingSet
from medgan.gan.recipes import xray_32_cpu
from tests.builders.cohort import FINDINGS, radiographs


def small_set(images: int = 96) -> TrainingSet:
    pixels, labels = radiographs(images)
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2)), mode="edge").astype(np.uint16) * 257
    return TrainingSet(pixels=padded, class_index=labels.astype(np.int64), classes=FINDINGS, lo=0.0, hi=65535.0)


def small_config(**changes) -> TrainConfig:
    values = {
        "widths": (32, 16, 8),
        "widths_d": (),
        "batch": 16,
        "total_kimg": 0.192,
        "tick_kimg": 0.064,
        "seed": 3,
        "precision": "fp32",
        "finish_g": None,
        "gamma": 0.05,
        "sketch": 0,
        "sketch_weight": 0.0,
        "spectrum_weight": 0.0,
        "spectrum_target": "all",
        "match_spectrum": False,
    }
    return replace(xray_32_cpu(), **(values | changes))
