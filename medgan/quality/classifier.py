"""The in-domain classifier: the head of `features`, with its accuracy on real holdout images.

Trained on the real train split with fixed seeds: the same cohort gives the same classifier. It sees volumes by their
middle slices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save

from medgan.cohort import planes, read
from medgan.collection import durable
from medgan.gan import sample
from medgan.gan.arithmetic import fixed
from medgan.gan.images import to_unit
from medgan.quality import features
from medgan.records import TrainedModel
from medgan.settings import Zones

_WEIGHTS, _FACTS = "classifier.safetensors", "classifier.json"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A frozen network and its accuracy on real holdout images: of each class (NaN where there is none), and of all."""

    network: features.Network
    sha256: str
    recall: tuple[float, ...]
    holdout: int

    @property
    def accuracy(self) -> float:
        """Accuracy on real holdout images, classes weighted alike."""
        return float(np.nanmean(self.recall))

    def sees(self, stored_NHW: npt.NDArray[np.uint16], attrs: dict[str, Any], ids: Ids) -> Ids:
        """Class index (N,) that it sees; a row's answer depends on its image and on `id % 16` alone."""
        lo, hi = attrs["intensity_range"]
        unit = to_unit(planes.middle(stored_NHW), float(lo), float(hi))
        seen = np.empty(len(ids), dtype=np.int64)
        with fixed(1), torch.inference_mode():
            for rows in sample.batches(ids):
                batch = np.zeros((sample.BATCH, 1, *unit.shape[1:]), np.float32)
                batch[ids[rows] % sample.BATCH, 0] = unit[rows]
                scores = self.network.classify(self.network(torch.from_numpy(batch)))
                seen[rows] = scores.argmax(1).numpy()[ids[rows] % sample.BATCH]
        return seen


@lru_cache(maxsize=2)
def of_model(model: TrainedModel, zones: Zones) -> Classifier:
    """The classifier of a model's cohort: trained once, kept beside the model, loaded once a process."""
    folder = zones.pseudonymised / "models" / model.model
    network = features.Network(len(model.classes))
    if not (folder / _FACTS).is_file():
        with durable.locked(folder / ".classifier.lock"):
            if not (folder / _FACTS).is_file():
                encoder, facts = _trained(model, zones)
                durable.write_bytes(folder / _WEIGHTS, save(encoder.network.state_dict()))
                durable.write_bytes(folder / _FACTS, json.dumps(facts, sort_keys=True).encode())
    facts = json.loads((folder / _FACTS).read_bytes())
    network.load_state_dict(load_file(folder / _WEIGHTS))
    network.eval().requires_grad_(requires_grad=False)
    recall = tuple(float("nan") if value is None else float(value) for value in facts["recall"])
    return Classifier(network=network, sha256=facts["sha256"], recall=recall, holdout=facts["holdout"])


def _trained(model: TrainedModel, zones: Zones) -> tuple[features.Encoder, dict[str, Any]]:
    """Train on the train split, judge on both holdouts."""
    real = read.load(model.cohort, zones=zones)
    lo, hi = (float(value) for value in real.attrs["intensity_range"])
    images, class_index, _ = real.split("train")
    encoder = features.train(to_unit(planes.middle(images), lo, hi), class_index, len(real.classes))
    held = [real.split(name)[:2] for name in ("holdout-1", "holdout-2")]
    stored, truth = np.concatenate([part[0] for part in held]), np.concatenate([part[1] for part in held])
    judge = Classifier(network=encoder.network, sha256=encoder.sha256, recall=(), holdout=len(truth))
    right = judge.sees(stored, real.attrs, np.arange(len(truth))) == truth
    found = [right[truth == index] for index in range(len(real.classes))]
    recall = [float(part.mean()) if len(part) else None for part in found]
    return encoder, {"sha256": encoder.sha256, "recall": recall, "holdout": len(truth)}
