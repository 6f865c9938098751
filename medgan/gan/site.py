"""Adapt a trained model to a site's cohort, or to single patients: the verbs around `adapt`, and where results may go.

A site's model (20 train patients at least) is a `TrainedModel` of the site's cohort: it is synthesised from, attacked
and cleared by the gate like any other. What is adapted to fewer is a `PatientAdapter`: another type, another folder,
and a mark in its description that synthesis and publishing refuse.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from medgan.cohort import read
from medgan.collection import durable
from medgan.errors import InvalidRequest, PrivacyRefused
from medgan.gan import adapt, checkpoint, level
from medgan.gan.images import TrainingSet
from medgan.gan.sample import CONFIG, WEIGHTS
from medgan.gan.train import RECORD, load
from medgan.records import PatientAdapter, TrainedModel, ValidatedCohort, canonical_json, sha256_hex
from medgan.records.adapter import LEAST_SITE_PATIENTS, AdaptRequest
from medgan.settings import Zones

ADAPTER = "adapter.safetensors"


def adapt_to_site(
    base: TrainedModel,
    cohort: ValidatedCohort,
    request: AdaptRequest,
    *,
    zones: Zones,
    on_progress: adapt.OnProgress | None = None,
) -> TrainedModel:
    """The base brought to the train split of a site's cohort, as a model that may face the gate.

    Raises:
        PrivacyRefused: fewer than 20 train patients: that would be an adapter to persons (`adapt_to_patients`); or
            the base is one.
        InvalidRequest: another image size, or classes that the base does not know.
        Conflict: another process adapts to this very site.
    """
    patients = cohort.cohort.patients["train"]
    if patients < LEAST_SITE_PATIENTS:
        raise PrivacyRefused(
            f"{patients} train patients are persons, not a site: at least {LEAST_SITE_PATIENTS} are needed for a model "
            "that may face the gate; adapt to patients instead, inside the pseudonymised zone"
        )
    level.refuse_patient_level(base.model, zones=zones)
    handle = _handle("mo", base, cohort, request)
    folder = zones.pseudonymised / "models" / handle
    finished = load(folder)
    if finished is not None:
        return finished
    with durable.locked(folder.parent / ".locks" / handle, wait=False):
        durable.sweep_below(folder)
        return _to_site(base, cohort, request, folder, zones=zones, on_progress=on_progress)


def _to_site(
    base: TrainedModel,
    cohort: ValidatedCohort,
    request: AdaptRequest,
    folder: Path,
    *,
    zones: Zones,
    on_progress: adapt.OnProgress | None,
) -> TrainedModel:
    """Adapt into `folder`, whose lock is ours, and write the model's record last."""
    begun = time.perf_counter()
    outcome, described = _adapt(base, cohort, request, zones, on_progress)
    checkpoint.save_network(folder / WEIGHTS, outcome.network.merged())
    described |= {level.LEVEL: level.SITE, "adapted": _facts(base, outcome, cohort.cohort.patients["train"])}
    durable.write_bytes(folder / CONFIG, json.dumps(described, sort_keys=True, indent=1, allow_nan=False).encode())
    model = TrainedModel(
        model=folder.name,
        cohort=cohort.cohort.cohort,
        collection_snapshot=cohort.cohort.collection_snapshot,
        config_sha256=sha256_hex(
            canonical_json({"base": base.config_sha256, "request": request.model_dump(mode="json")})
        ),
        generator_sha256=_digest(folder / WEIGHTS),
        classes=base.classes,
        size_px=base.size_px,
        kimg=outcome.steps * 16 / 1000,
        seconds=round(time.perf_counter() - begun, 1),
    )
    durable.write_bytes(folder / RECORD, model.canonical())
    return model


def adapt_to_patients(
    base: TrainedModel,
    cohort: ValidatedCohort,
    request: AdaptRequest,
    *,
    zones: Zones,
    on_progress: adapt.OnProgress | None = None,
) -> PatientAdapter:
    """An adapter to the train split of a cohort of any size; it never leaves the pseudonymised zone."""
    handle = _handle("pa", base, cohort, request)
    folder = patient_folder(handle, zones=zones)
    path = folder / RECORD
    if path.is_file():
        return PatientAdapter.model_validate_json(path.read_bytes())
    with durable.locked(folder.parent / ".locks" / handle, wait=False):
        durable.sweep_below(folder)
        outcome, described = _adapt(base, cohort, request, zones, on_progress)
        digest = adapt.save_adapter(folder / ADAPTER, outcome.network)
        patients = cohort.cohort.patients["train"]
        described |= {level.LEVEL: level.PATIENT, "adapted": _facts(base, outcome, patients)}
        durable.write_bytes(folder / CONFIG, json.dumps(described, sort_keys=True, indent=1, allow_nan=False).encode())
        record = PatientAdapter(
            adapter=folder.name,
            base=base.model,
            patients=patients,
            images=len(read.load(cohort.cohort, zones=zones).split("train")[0]),
            adapter_sha256=digest,
            trained_share=outcome.network.share(),
            steps=outcome.steps,
        )
        durable.write_bytes(folder / RECORD, record.canonical())
        return record


def patient_folder(handle: str, *, zones: Zones) -> Path:
    """Where adapters to patients lie: beside the models, never among them."""
    return zones.pseudonymised / "patient-adapters" / handle


def _adapt(
    base: TrainedModel,
    cohort: ValidatedCohort,
    request: AdaptRequest,
    zones: Zones,
    on_progress: adapt.OnProgress | None,
) -> tuple[adapt.Outcome, dict[str, Any]]:
    loaded = read.load(cohort.cohort, zones=zones)
    images, class_index, table = loaded.split("train")
    if not len(images):
        raise InvalidRequest("the cohort's train split is empty: there is nothing to adapt to")
    lo, hi = loaded.attrs["intensity_range"]
    site = TrainingSet(pixels=images, class_index=class_index, classes=loaded.classes, lo=float(lo), hi=float(hi))
    folder = zones.pseudonymised / "models" / base.model
    outcome = adapt.adapt(
        folder,
        site,
        request,
        patients=table["patient_key"].to_numpy(),
        sha256=base.generator_sha256,
        on_progress=on_progress,
    )
    described = json.loads((folder / CONFIG).read_bytes())
    described["attrs"] = {**loaded.attrs, "intensity_range": [float(lo), float(hi)]}
    return outcome, described


def _facts(base: TrainedModel, outcome: adapt.Outcome, patients: int) -> dict[str, Any]:
    return {
        "base": base.model,
        "patients": patients,
        "trained_share": outcome.network.share(),
        "steps": outcome.steps,
        "stopped_early": outcome.stopped_early,
        "closer_to_train": outcome.closer_to_train,
    }


def _handle(prefix: str, base: TrainedModel, cohort: ValidatedCohort, request: AdaptRequest) -> str:
    content = {
        "base": base.generator_sha256,
        "cohort": cohort.cohort.content_sha256,
        "request": request.model_dump(mode="json"),
    }
    return f"{prefix}-" + sha256_hex(canonical_json(content))[:32]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
