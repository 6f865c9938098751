"""Train a generator on an admitted cohort: the verb of the house around `fit`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medgan.cohort import read
from medgan.gan import conditions, recipes
from medgan.gan.checkpoint import write_atomically
from medgan.gan.config import TrainConfig
from medgan.gan.fit import OnTick, Tick, fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import CONFIG, WEIGHTS
from medgan.records import TrainedModel, TrainRequest, ValidatedCohort, canonical_json, sha256_hex
from medgan.settings import Zones

RECORD = "model.json"


def train(
    cohort: ValidatedCohort, request: TrainRequest, *, zones: Zones, on_tick: OnTick | None = None
) -> TrainedModel:
    """Train on the cohort's train split, resume a killed run, or return the finished model of this very request.

    Raises:
        InvalidRequest: unknown recipe, or one of another image size.
        TrainingDiverged: a loss stayed non-finite after every roll-back.
    """
    config = recipes.build(request.recipe, seed=request.seed, total_kimg=request.total_kimg)
    handle = model_handle(cohort, config)
    folder = zones.pseudonymised / "models" / handle
    finished = load(folder)
    if finished is not None:
        return finished
    loaded = read.load(cohort.cohort, zones=zones)
    images, class_index, table = loaded.split("train")
    columns = {name: table[name].to_numpy() for name in config.conditions if name in table}
    fields, features = conditions.learn_all(columns, table["patient_key"].to_numpy())
    lo, hi = loaded.attrs["intensity_range"]
    training_set = TrainingSet(
        pixels=images,
        class_index=class_index,
        classes=loaded.classes,
        lo=float(lo),
        hi=float(hi),
        fields=fields,
        features=features,
    )
    folder.mkdir(parents=True, exist_ok=True)
    seconds = fit(training_set, config, folder, attrs=loaded.attrs, on_tick=on_tick)
    model = TrainedModel(
        model=handle,
        cohort=cohort.cohort.cohort,
        collection_snapshot=cohort.cohort.collection_snapshot,
        config_sha256=config.digest,
        generator_sha256=_digest(folder / WEIGHTS),
        classes=loaded.classes,
        size_px=config.size_px,
        kimg=config.total_steps * config.batch / 1000,
        seconds=round(seconds, 1),
    )
    write_atomically(folder / RECORD, model.canonical())
    return model


def model_handle(cohort: ValidatedCohort, config: TrainConfig) -> str:
    """`mo-` and 32 hex digits over what decides the weights: the cohort's content and the configuration."""
    content = {"cohort": cohort.cohort.content_sha256, "config": config.digest}
    return "mo-" + sha256_hex(canonical_json(content))[:32]


def load(folder: Path) -> TrainedModel | None:
    """The record of a finished model whose weights still are what it says, or None."""
    path = folder / RECORD
    if not (path.is_file() and (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
        return None
    model = TrainedModel.model_validate_json(path.read_bytes())
    return model if _digest(folder / WEIGHTS) == model.generator_sha256 else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


__all__ = ["OnTick", "Tick", "load", "model_handle", "train"]
