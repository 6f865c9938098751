"""Does an image show the class it was drawn for, and how often must it? The in-domain classifier's word on every row.

Redrawing every image that the classifier does not recognise would make the cohort easier than reality, so a row is held
to it only with the probability that brings a class from its own fidelity to the classifier's accuracy on real images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medgan.errors import InvalidRequest
from medgan.gan import sample
from medgan.quality import classifier
from medgan.records import CohortSpec, Fidelity, TrainedModel
from medgan.settings import Zones
from medgan.synthesis import draws

_PROBE_IMAGES = 256
_PROBE_DRAW = draws.PER_ATTEMPT - 1
_COIN = 0x666964

Ids = npt.NDArray[np.int64]


def held_to_it(
    model: TrainedModel, spec: CohortSpec, sampler: sample.Sampler, class_index: Ids, *, zones: Zones
) -> npt.NDArray[np.bool_]:
    """(N,) bool: rows that have to be recognised. A class's own fidelity is measured on images that are not kept.

    Raises:
        InvalidRequest: the generator is differentially private, and a classifier of real images must not choose.
    """
    if model.privacy is not None:
        raise InvalidRequest(
            "this generator is differentially private: choosing its images by a classifier of real ones would undo that"
        )
    judge = classifier.of_model(model, zones)
    share = np.zeros(len(model.classes))
    for index in np.unique(class_index):
        ids = draws.sample_id(np.arange(_PROBE_IMAGES, dtype=np.int64), _PROBE_DRAW)
        wanted = np.full(_PROBE_IMAGES, index)
        own = float((judge.sees(sampler.images(ids, wanted, seed=spec.seed), sampler.attrs, ids) == index).mean())
        goal = judge.recall[index] if np.isfinite(judge.recall[index]) else judge.accuracy
        share[index] = np.clip((goal - own) / max(1 - own, 1e-9), 0, 1)
    coin = np.random.Generator(np.random.Philox(key=[spec.seed, _COIN])).random(len(class_index))
    held: npt.NDArray[np.bool_] = coin < share[class_index]
    return held


def measured(model: TrainedModel, seen: npt.NDArray[np.bool_], class_index: Ids, *, zones: Zones) -> Fidelity:
    """What the record says: share recognised, with real accuracy weighted by the classes of the cohort."""
    judge = classifier.of_model(model, zones)
    recall = np.nan_to_num(np.array(judge.recall), nan=judge.accuracy)
    return Fidelity(
        synthetic=round(float(seen.mean()), 6),
        real=round(float(recall[class_index].mean()), 6),
        images=len(seen),
        holdout=judge.holdout,
        classifier_sha256=judge.sha256,
    )
