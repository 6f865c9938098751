"""Train a generator on an admitted cohort: the verb of the house around `fit`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgan.cohort import read, stored
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.gan import board, budget, conditions, outliner, recipes
from medgan.gan.accountant import Ledger
from medgan.gan.config import DP, TrainConfig
from medgan.gan.fit import OnTick, Private, Tick, fit
from medgan.gan.images import TrainingSet
from medgan.gan.look import Watch
from medgan.gan.private import Noise, solve
from medgan.gan.sample import CONFIG, WEIGHTS
from medgan.records import (
    PrivacyBudget,
    PrivacyTarget,
    TrainedModel,
    TrainRequest,
    ValidatedCohort,
    canonical_json,
    sha256_hex,
)
from medgan.settings import Zones

RECORD = "model.json"


def train(
    cohort: ValidatedCohort,
    request: TrainRequest,
    *,
    zones: Zones,
    on_tick: OnTick | None = None,
    watch: Watch | None = None,
) -> TrainedModel:
    """Train on the cohort's train split, resume a killed run, or return the finished model of this very request.

    `watch` makes the judge of every tick's images (`quality.live.in_domain`); a request with patience needs it.

    Raises:
        InvalidRequest: unknown recipe, one of another image size, or masks that nothing can be learned from.
        PrivacyRefused: the collection's differential-privacy budget does not allow this training.
        TrainingDiverged: a loss stayed non-finite after every roll-back.
        Conflict: another process trains this very model.
        StoreUnavailable: the disk refuses; run again, and it goes on from its last tick.
    """
    privacy = _guarantee(request.privacy, cohort.cohort.patients["train"])
    config = recipes.build(
        request.recipe,
        seed=request.seed,
        total_kimg=request.total_kimg,
        patience_kimg=request.patience_kimg,
        privacy=privacy,
    )
    handle = model_handle(cohort, config)
    folder = zones.pseudonymised / "models" / handle
    finished = load(folder)
    if finished is not None:
        return finished
    with durable.locked(folder.parent / ".locks" / handle, wait=False):
        durable.sweep_below(folder)
        return _train(cohort, request, config, folder, zones=zones, on_tick=on_tick, watch=watch)


def _train(
    cohort: ValidatedCohort,
    request: TrainRequest,
    config: TrainConfig,
    folder: Path,
    *,
    zones: Zones,
    on_tick: OnTick | None,
    watch: Watch | None,
) -> TrainedModel:
    """Train into `folder`, whose lock is ours, and write the model's record last."""
    loaded = read.load(cohort.cohort, zones=zones)
    if loaded.masks is not None:
        _check_masks(loaded, config)
    images, class_index, table = loaded.split("train")
    patients = table["patient_key"].to_numpy(dtype=object)
    columns = {name: table[name].to_numpy() for name in config.conditions if name in table}
    fields, features = conditions.learn_all(columns, patients)
    lo, hi = loaded.attrs["intensity_range"]
    training_set = TrainingSet(
        pixels=images,
        class_index=class_index,
        classes=loaded.classes,
        lo=float(lo),
        hi=float(hi),
        fields=fields,
        features=features,
        patients=patients,
    )
    account = _Account(cohort, request, config, patients, zones)
    trained = fit(
        training_set,
        config,
        folder,
        attrs=loaded.attrs,
        on_tick=board.beside(on_tick, folder),
        private=Private(patients=patients, reserve=account.reserve),
        watch=watch,
    )
    model = TrainedModel(
        model=folder.name,
        cohort=cohort.cohort.cohort,
        collection_snapshot=cohort.cohort.collection_snapshot,
        config_sha256=config.digest,
        generator_sha256=_digest(folder / WEIGHTS),
        classes=loaded.classes,
        size_px=config.size_px,
        kimg=trained.kimg,
        seconds=round(trained.seconds, 1),
        privacy=account.budget(),
        outliner=None if loaded.masks is None else outliner.fit(loaded, folder, seed=config.seed),
    )
    durable.write_bytes(folder / RECORD, model.canonical())
    return model


def _check_masks(cohort: read.Cohort, config: TrainConfig) -> None:
    """`InvalidRequest` where no outliner can be learned beside the generator."""
    if config.privacy is not None:
        raise InvalidRequest(
            "masks are not learned under differential privacy: ask for a cohort without structures, or train without it"
        )
    outliner.check(cohort)


def _guarantee(target: PrivacyTarget | None, train_patients: int) -> DP | None:
    """What the request asks of one training; delta is 1 / (10 x patients) unless it says less."""
    if target is None:
        return None
    most = 1 / (10 * train_patients)
    if target.delta is not None and target.delta > most:
        raise InvalidRequest(
            f"delta {target.delta:g} is no guarantee for {train_patients} patients: at most {most:.2g}"
        )
    return DP(epsilon=target.epsilon, delta=target.delta or most, clip=target.clip)


@dataclass(frozen=True, slots=True)
class _Account:
    """The collection's budget as this training sees it."""

    cohort: ValidatedCohort
    request: TrainRequest
    config: TrainConfig
    patients: NDArray[np.object_]
    zones: Zones

    @property
    def collection(self) -> str:
        return self.cohort.cohort.collection_snapshot.partition("@")[0]

    def reserve(self, run: str, noise: Noise) -> None:
        """Enter the run before it draws noise; `PrivacyRefused` when the total does not allow it."""
        target, privacy = self.request.privacy, self.config.privacy
        if target is None or privacy is None:
            return
        budget.reserve(
            self.collection,
            run=run,
            model=model_handle(self.cohort, self.config),
            noise=noise,
            patients=self.patients,
            delta=privacy.delta,
            total_epsilon=target.total_epsilon or target.epsilon,
            zones=self.zones,
        )

    def budget(self) -> PrivacyBudget | None:
        """What the finished model states."""
        privacy = self.config.privacy
        if privacy is None:
            return None
        noise = solve(self.config, len(set(self.patients)))
        spent = budget.spent(self.collection, delta=privacy.delta, zones=self.zones)
        return PrivacyBudget(
            epsilon=round(Ledger([noise.steps]).epsilon(privacy.delta), 4),
            delta=privacy.delta,
            accountant="PRV",
            unit=privacy.unit,
            sigma=noise.sigma,
            rate=noise.rate,
            steps=noise.count,
            spent_epsilon=round(spent.epsilon, 4),
            trainings=spent.trainings,
        )


def model_handle(cohort: ValidatedCohort, config: TrainConfig) -> str:
    """`mo-` and 32 hex digits over what decides the weights: the cohort's content and the configuration."""
    content = {"cohort": cohort.cohort.content_sha256, "config": config.digest}
    return "mo-" + sha256_hex(canonical_json(content))[:32]


def load(folder: Path) -> TrainedModel | None:
    """The record of a finished model whose weights still are what it says, or None."""
    model = stored.record(folder / RECORD, TrainedModel)
    if model is None or not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
        return None
    whole = _digest(folder / WEIGHTS) == model.generator_sha256 and outliner.stands(folder, model.outliner)
    return model if whole else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


__all__ = ["OnTick", "Tick", "load", "model_handle", "train"]
