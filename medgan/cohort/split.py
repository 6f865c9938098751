"""Train, holdout-1 or holdout-2: decided by a hash of the patient's pseudonym, so it never changes."""

from __future__ import annotations

import hashlib

from medgan.records import CohortRecipe

SPLITS = ("train", "holdout-1", "holdout-2")


def split_of(patient_key: str, recipe: CohortRecipe) -> str:
    """The split of one patient, the same in every cohort with these fractions, however the archive grows."""
    raw = hashlib.sha256(b"medgan/split/1/" + patient_key.encode()).digest()
    position = int.from_bytes(raw[:8], "big") / 2**64  # uniform in [0, 1)
    if position < recipe.train_fraction:
        return SPLITS[0]
    return SPLITS[1] if position < recipe.train_fraction + recipe.holdout_fraction else SPLITS[2]
