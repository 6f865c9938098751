"""The privacy budget of a collection: what private trainings and tables of attributes took of it, over all nights.

One entry a run, in the pseudonymised zone: the noise, the rate, the number of steps, and whose images were in the
train split. An entry is on disk before the run draws any noise, for all of its steps, and is never taken back: a run
that is killed has spent what it reserved. A resumed run repeats its own noise (see `dp.Secret`), bears the same name,
and reserves nothing more. Epsilon is derived from all of it on demand, for the patient who spent most.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from medgan.collection import durable
from medgan.errors import IntegrityError, PrivacyRefused
from medgan.gan.accountant import Ledger, Steps
from medgan.gan.private import Noise
from medgan.records.base import Handle, Name, Record, Sha256
from medgan.settings import Zones

Members = npt.NDArray[np.uint64]


class BudgetEntry(Record):
    """What one run reserved; the hashed pseudonyms of its patients lie beside it.

    A released table of attributes is one noisy step that every patient takes part in.
    """

    what: Literal["training", "attributes"] = "training"
    run: str = Field(pattern=r"^[0-9a-f]{32}$")
    model: Handle
    sigma: float = Field(gt=0)
    rate: float = Field(gt=0, le=1)
    count: int = Field(ge=1)
    patients: int = Field(ge=1)
    patients_sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Epsilon at a delta of the patient who spent most, and how many trainings and tables took part.

    `untold` of the trainings were entered by a version that entered no tables: each may have released one.
    """

    epsilon: float
    trainings: int
    tables: int
    untold: int = 0


def members(patients: npt.NDArray[np.object_]) -> Members:
    """(P,) sorted hashes of the patients' pseudonyms: enough to tell who took part, and to nobody else."""
    keys = sorted(set(map(str, patients)))
    hashes = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") for key in keys]
    return np.unique(np.array(hashes, np.uint64))


def reserve(
    collection: str,
    *,
    run: str,
    model: str,
    noise: Noise,
    patients: npt.NDArray[np.object_],
    delta: float,
    total_epsilon: float,
    zones: Zones,
    what: Literal["training", "attributes"] = "training",
) -> Spent:
    """Enter a run before it draws noise, or find it entered; what is spent with it.

    A table is entered with an infinite `total_epsilon`: G8 judges it, and the next training meets it in the total.

    Raises:
        PrivacyRefused: with this run some patient's total would exceed `total_epsilon`; nothing was entered.
        IntegrityError: an entry is broken, so that what was spent cannot be told; or the run reserved something else.
    """
    folder = _folder(collection, zones)
    with durable.locked(folder / ".lock"):
        entries = _entries(folder)
        own = members(patients)
        for entry, took_part in entries:
            if entry.run == run:
                _same(entry, took_part, noise, own)
                return _spent(entries, delta)
        content = np.ascontiguousarray(own, "<u8").tobytes()
        entry = BudgetEntry(
            what=what,
            run=run,
            model=model,
            sigma=noise.sigma,
            rate=noise.rate,
            count=noise.count,
            patients=len(own),
            patients_sha256=hashlib.sha256(content).hexdigest(),
        )
        after = _spent([*entries, (entry, own)], delta)
        if after.epsilon > total_epsilon:
            before = _spent(entries, delta)
            raise PrivacyRefused(
                f"this training would bring the budget of collection {collection} from epsilon {before.epsilon:.3f} to "
                f"{after.epsilon:.3f} for the patients in all {after.trainings} trainings, and {total_epsilon:.3f} is "
                f"all there is (delta {delta:.2g}): nothing was trained; go on publishing from the last model, or "
                "let whoever is responsible raise total_epsilon"
            )
        durable.write_bytes(folder / f"{run}.patients", content)
        durable.write_bytes(folder / f"{run}.json", entry.canonical())  # last: with it the entry counts
        return after


def spent(collection: str, *, delta: float, zones: Zones) -> Spent:
    """What the collection's patients have spent so far; `IntegrityError` when an entry is broken."""
    return _spent(_entries(_folder(collection, zones)), delta)


def _folder(collection: str, zones: Zones) -> Path:
    Collection(name=collection)  # refuses a name that is no name before it becomes a path
    return zones.pseudonymised / "budget" / collection


class Collection(Record):
    """A collection's name."""

    name: Name


def _entries(folder: Path) -> list[tuple[BudgetEntry, Members]]:
    return [_entry(path) for path in sorted(folder.glob("[0-9a-f]*.json"))]


def _entry(path: Path) -> tuple[BudgetEntry, Members]:
    try:
        entry = BudgetEntry.model_validate_json(path.read_bytes())
        content = path.with_suffix(".patients").read_bytes()
    except (OSError, ValidationError):
        entry, content = None, b""
    if entry is None or hashlib.sha256(content).hexdigest() != entry.patients_sha256:
        raise IntegrityError("an entry of the privacy budget is broken, so what was spent cannot be told: restore it")
    return entry, np.frombuffer(content, "<u8").astype(np.uint64)


def _same(entry: BudgetEntry, took_part: Members, noise: Noise, own: Members) -> None:
    """A resumed run spends what it reserved: the same noise (but for rounding) on the same patients."""
    reserved = entry.rate == noise.rate and entry.count == noise.count and isclose(entry.sigma, noise.sigma)
    if not reserved or not np.array_equal(took_part, own):
        raise IntegrityError(
            "this run reserved another privacy budget than it would now spend (another version of medgan began it): "
            "what it reserved stays spent; start a training with another seed"
        )


def _spent(entries: list[tuple[BudgetEntry, Members]], delta: float) -> Spent:
    """Compose each set of trainings that some patient took part in; the largest epsilon counts."""
    if not entries:
        return Spent(epsilon=0.0, trainings=0, tables=0)
    everybody = np.unique(np.concatenate([own for _, own in entries]))
    took_part = np.stack([np.isin(everybody, own, assume_unique=True) for _, own in entries], axis=1)
    histories = np.unique(took_part, axis=0)
    # a history that is contained in another spends no more
    largest = [row for row in histories if not any((row <= other).all() and (row < other).any() for other in histories)]
    steps = [Steps(entry.sigma, entry.rate, entry.count) for entry, _ in entries]
    epsilons = [Ledger(s for s, took in zip(steps, row, strict=True) if took).epsilon(delta) for row in largest]
    trainings = sum(entry.what == "training" for entry, _ in entries)
    untold = sum("what" not in entry.model_fields_set for entry, _ in entries)
    return Spent(epsilon=max(epsilons), trainings=trainings, tables=len(entries) - trainings, untold=untold)
