"""For the record: what the discriminator itself tells of its training images. It never leaves the pseudonymised zone.

The strongest attacker there could be holds the discriminator (Hayes et al. 2019, the white-box attack of LOGAN). Nobody
outside does, so the numbers decide nothing; they say what would be lost if the model's folder were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medgan.cohort import read
from medgan.errors import InvalidRequest
from medgan.gan.conditions import encode, joined, width
from medgan.gan.discriminator import build
from medgan.gan.fit import STATE
from medgan.gan.images import to_unit
from medgan.gan.sample import open_generator
from medgan.privacy import statistics
from medgan.records import ValidatedCohort
from medgan.settings import Zones

_MOST_IMAGES = 4000
_BLOCK = 256
_FALSE_POSITIVES = 0.001


def attack(model: str, cohort: ValidatedCohort, *, zones: Zones) -> dict[str, Any]:
    """AUC and true-positive rate of "the discriminator takes it for real", train against holdout.

    Empty where the model's discriminator is not in the store (it was deleted, or somebody else's generator is judged).
    """
    try:
        sampler = open_generator(model, zones=zones)
        tensors = load_file(zones.pseudonymised / "models" / model / STATE)
        critic = build(sampler.config, len(sampler.classes), width(sampler.fields))
        critic.load_state_dict({k.removeprefix("d/"): v for k, v in tensors.items() if k.startswith("d/")})
    except (InvalidRequest, OSError, SafetensorError, RuntimeError):
        return {}
    loaded = read.load(cohort.cohort, zones=zones)
    low, high = (float(value) for value in loaded.attrs["intensity_range"])
    rng = np.random.Generator(np.random.Philox(key=[0, 0x776262]))
    scores = []
    for splits in (("train",), ("holdout-1", "holdout-2")):
        parts = [loaded.split(name)[:2] for name in splits]
        images, classes = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        rows = np.sort(rng.permutation(len(images))[:_MOST_IMAGES])
        conditions = joined(classes[rows], encode(sampler.fields, {}, len(rows)))
        scores.append(_logits(critic.eval(), to_unit(images[rows], low, high)[:, None], conditions))
    members, others = scores
    threshold, _ = statistics.tail_threshold(others, quantile=1 - _FALSE_POSITIVES)
    return {
        "white-box discriminator": {
            "auc": round(statistics.auc(members, others), 4),
            "true positives at 0.1 % false ones": round(float((members >= threshold).mean()), 4),
            "members": len(members),
            "others": len(others),
        }
    }


def _logits(critic: torch.nn.Module, images: Any, conditions: Any) -> Any:
    with torch.inference_mode():
        blocks = [
            critic(
                torch.from_numpy(images[start : start + _BLOCK]), torch.from_numpy(conditions[start : start + _BLOCK])
            )
            for start in range(0, len(images), _BLOCK)
        ]
    return torch.cat(blocks).float().numpy()
