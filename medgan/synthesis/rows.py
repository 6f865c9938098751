"""The attribute table of a synthetic cohort: decided before any image is drawn, exact, its order from the seed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import pandas as pd

from medgan.cohort import read
from medgan.collection import durable
from medgan.errors import InvalidRequest
from medgan.gan import budget, sample
from medgan.gan.private import Noise
from medgan.records import CohortSpec, PrivacyBudget, TrainedModel, canonical_json
from medgan.records.synthetic import Target
from medgan.settings import Zones
from medgan.synthesis import attributes, joint, patients, targets

_ORDER = 0x617474
_NOISE_KEY = "attribute-noise.key"
_BESIDE_PRIVATE_MODEL = 0.5
"""Epsilon of the table where the generator is private and the request names none: exact counts would undo its claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """`table` has `id`, `split`, `class`, what else is told, and `patient` where images are given to patients.

    `privacy` is what telling it cost.
    """

    table: pd.DataFrame
    privacy: PrivacyBudget | None
    model: joint.JointTable


def decide(model: TrainedModel, spec: CohortSpec, *, zones: Zones) -> Attributes:
    """The rows of the cohort that `spec` asks for.

    Raises:
        InvalidRequest: something asked for is unknown, too rare to be told, or impossible; says what is supported.
    """
    _is_series(spec, sample.open_generator(model, zones=zones).shape)
    train = read.load(model.cohort, zones=zones)
    of = train if spec.like is None or spec.like.startswith("site:") else read.load(spec.like, zones=zones)
    followed = _followed(of.split("train")[2], spec)
    asked = sorted({name for target in spec.targets for name in target.of})
    cost = _budget(model, spec, followed)
    of_patients = patients.asked(spec, followed, private=cost is not None)
    noise = _noise(model, spec, cost, zones) if cost else None
    if cost is not None and noise is not None:
        _enter(of.snapshot.collection_snapshot, model, followed, cost, noise, zones)
    table = joint.joint_table(followed, asked=asked, edges=_edges(spec), noise=noise)
    _known(table.values("class"), model)
    counts = targets.allocate(spec.images, _all_targets(followed, spec, model, table, noisy=cost is not None), table)
    cells = np.repeat(np.arange(len(counts)), counts)
    order = np.random.Generator(np.random.Philox(key=[spec.seed, _ORDER])).permutation(spec.images)
    names = list(table.counts)
    columns = {
        name: np.array([cell[place] for cell in names], dtype=object)[cells[order]]
        for place, name in enumerate(table.columns)
    }
    made = pd.DataFrame({"id": np.arange(spec.images, dtype=np.int64), "split": "train", **columns})
    made = made.astype(dict.fromkeys(("split", *table.columns), "str"))
    if of_patients is not None:
        patients.refuse_more_than_there_are(made, spec)
        made[patients.COLUMN] = patients.assigned(made, of_patients, seed=spec.seed)
    return Attributes(table=made, privacy=cost, model=table)


def _followed(train: pd.DataFrame, spec: CohortSpec) -> pd.DataFrame:
    """The rows of the cohort's `train` table that the spec wants to be followed: all, or one site's."""
    if spec.like is None or not spec.like.startswith("site:"):
        return train
    site = next((name for name in ("site", "institution") if name in train), None)
    if site is None:
        raise InvalidRequest("the training cohort does not know sites: its recipe names no covariate `site`")
    rows = train[train[site] == spec.like.removeprefix("site:")]
    patients = rows["patient_key"].nunique()
    if patients < joint.SMALL_CELL:
        raise InvalidRequest(
            f"fewer than {joint.SMALL_CELL} training patients are of the site to follow: choose another"
        )
    return rows


def _edges(spec: CohortSpec) -> tuple[int, ...] | None:
    """The age edges that the targets name, or None where they name none."""
    bands = [
        key.split(" x ")[target.of.index("age_band")]
        for target in spec.targets
        if "age_band" in target.of
        for key in (target.shares or target.counts or {})
    ]
    return attributes.asked_edges(sorted(set(bands))) if bands else None


def _is_series(spec: CohortSpec, shape: tuple[int, ...]) -> None:
    """Refuse a series that the model does not make: flat images stand alone, a volume has its own depth."""
    depth = 1 if len(shape) == 2 else shape[0]  # noqa: PLR2004 - (H, W)
    if spec.series_length not in (None, depth):
        raise InvalidRequest(
            f"series of {spec.series_length:,} images are asked for and this model makes series of {depth}: leave the "
            "length out, say how many images a patient has instead, or train on volumes"
        )


def _known(classes: Sequence[str], model: TrainedModel) -> None:
    unknown = set(classes) - set(model.classes)
    if unknown:
        raise InvalidRequest(
            f"the cohort to follow has {len(unknown)} classes that the model was not trained on; "
            f"it knows {', '.join(model.classes)}"
        )


def _all_targets(
    followed: pd.DataFrame, spec: CohortSpec, model: TrainedModel, table: joint.JointTable, *, noisy: bool
) -> tuple[Target, ...]:
    """The targets asked for; classes follow the real images where no target speaks of them."""
    if spec.class_shares is not None:
        check_shares(model.classes, spec.class_shares)
        return (Target(of=("class",), shares=spec.class_shares), *spec.targets)
    if any("class" in target.of for target in spec.targets) or noisy:
        return spec.targets
    told = followed.loc[followed["class"].isin(table.values("class")), "class"]
    shares = {str(name): float(share) for name, share in told.value_counts(normalize=True).sort_index().items()}
    return (Target(of=("class",), shares=shares), *spec.targets)


def check_shares(classes: Sequence[str], shares: dict[str, float]) -> None:
    """`InvalidRequest` for a class the model does not know or shares that miss 1."""
    unknown = len(set(shares) - set(classes))
    if unknown:
        raise InvalidRequest(
            f"{unknown} of the classes asked for are unknown to the model, which knows {', '.join(classes)}"
        )
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:  # noqa: PLR2004 - rounding of written decimals
        raise InvalidRequest(f"class shares must not be negative and must sum to 1, not to {sum(shares.values()):.4f}")


def _budget(model: TrainedModel, spec: CohortSpec, followed: pd.DataFrame) -> PrivacyBudget | None:
    """What the table may cost; None where no differential privacy was asked for."""
    epsilon = spec.attribute_epsilon or (None if model.privacy is None else _BESIDE_PRIVATE_MODEL)
    if epsilon is None:
        return None
    delta = model.privacy.delta if model.privacy else 1 / (10 * max(1, followed["patient_key"].nunique()))
    return PrivacyBudget(epsilon=epsilon, delta=delta, accountant="analytic Gaussian", unit="patient")


def _noise(model: TrainedModel, spec: CohortSpec, budget: PrivacyBudget, zones: Zones) -> joint.Noise:
    """Noise from a secret that stays beside the model: a rerun draws the same, and nobody outside can take it off.

    Whatever changes the counts or the noise's size has a key of its own, or two tables would reveal the difference.
    """
    path = zones.pseudonymised / "models" / model.model / _NOISE_KEY
    if not path.is_file():
        with durable.locked(path.with_suffix(".lock")):
            if not path.is_file():
                durable.write_bytes(path, secrets.token_bytes(32))
                path.chmod(0o600)
    about = canonical_json(
        {"model": model.model, "like": spec.like, "budget": budget.model_dump(), "edges": _edges(spec)}
    )
    return joint.Noise(
        sigma=joint.gaussian_sigma(budget.epsilon, budget.delta), key=hashlib.sha256(path.read_bytes() + about).digest()
    )


def _enter(
    snapshot: str, model: TrainedModel, followed: pd.DataFrame, cost: PrivacyBudget, noise: joint.Noise, zones: Zones
) -> None:
    """Take the table's cost from the budget of the collection it tells of, once however often it is drawn."""
    budget.reserve(
        snapshot.partition("@")[0],
        run=hashlib.sha256(b"attributes" + noise.key).hexdigest()[:32],
        model=model.model,
        noise=Noise(sigma=noise.sigma, rate=1.0, count=1),
        patients=followed["patient_key"].to_numpy(dtype=object),
        delta=cost.delta,
        total_epsilon=inf,
        zones=zones,
        what="attributes",
    )
