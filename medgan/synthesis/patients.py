"""Which images of a synthetic cohort are of one synthetic patient.

Images of one patient share class, sex, age band and site; views may differ. Each is a draw of its own: generators here
know no person, so what one patient's images have in common is what the table says, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.errors import InvalidRequest
from medgan.records import CohortSpec
from medgan.synthesis.joint import SMALL_CELL

COLUMN = "patient"
_OF_THE_IMAGE = ("id", "split", "view")
_ORDER = 0x706174

Integers = npt.NDArray[np.int64]


def assigned(table: pd.DataFrame, shares: Mapping[int, float], *, seed: int) -> Integers:
    """(N,) the patient of each row, numbered from 0 in order of first appearance.

    `shares` of patients by their number of images are met over the whole table to about one patient a cell and number;
    images decide: where a cell's images do not divide, its last patient has fewer.
    """
    of = [name for name in table.columns if name not in _OF_THE_IMAGE]
    cell_of = table.groupby(of, sort=True).ngroup().to_numpy(dtype=np.int64)
    rng = np.random.Generator(np.random.Philox(key=[seed, _ORDER]))
    patient_of, count = np.empty(len(table), dtype=np.int64), 0
    split = _Split(shares)
    for cell in range(int(cell_of.max()) + 1):
        rows = np.flatnonzero(cell_of == cell)
        sizes = rng.permutation(split.sizes(len(rows)))
        patient_of[rng.permutation(rows)] = count + np.repeat(np.arange(len(sizes)), sizes)
        count += len(sizes)
    numbers, first = np.unique(patient_of, return_index=True)
    renamed = np.empty(len(numbers), dtype=np.int64)
    renamed[np.argsort(first, kind="stable")] = np.arange(len(numbers))
    found: Integers = renamed[patient_of]
    return found


class _Split:
    """Cuts one cell after the other into patients so that what one could not have is made up for by the next."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self.size = np.array(sorted(shares), dtype=np.int64)
        share = np.array([shares[size] for size in self.size.tolist()], dtype=np.float64)
        self.an_image = share / (share @ self.size)
        self.owed = np.zeros(len(self.size))

    def sizes(self, images: int) -> Integers:
        """Images of each patient of a cell; they sum to `images`."""
        self.owed += images * self.an_image
        counts = np.maximum(np.floor(self.owed), 0).astype(np.int64)
        for place in range(len(counts)):  # small numbers first: a few images too many are taken from the largest
            counts[place] = min(counts[place], (images - counts[:place] @ self.size[:place]) // self.size[place])
        left = images - int(counts @ self.size)
        while (fits := np.flatnonzero(self.size <= left)).size:
            counts[fits[np.argmax((self.owed - counts)[fits])]] += 1
            left = images - int(counts @ self.size)
        self.owed -= counts
        return np.repeat([*self.size.tolist(), left], [*counts.tolist(), int(left > 0)]).astype(np.int64)


def refuse_more_than_there_are(table: pd.DataFrame, spec: CohortSpec) -> None:
    """`InvalidRequest` where a number of images is asked for that no patient of `table` could have."""
    wanted = spec.images_per_patient
    most = wanted if isinstance(wanted, int) else max(map(int, wanted)) if isinstance(wanted, dict) else 0
    fullest = int(table.groupby([name for name in table.columns if name not in _OF_THE_IMAGE]).size().max())
    if most > fullest:
        raise InvalidRequest(
            f"patients of {most:,} images are asked for, and no combination of class, sex, age band and site has more "
            f"than {fullest:,} images: ask for more images, or for fewer a patient"
        )


def asked(spec: CohortSpec, followed: pd.DataFrame, *, private: bool) -> dict[int, float] | None:
    """Shares of patients by their images: those asked for, or those of the patients to follow; None without patients.

    A number of images that fewer than 11 real patients have counts as the next smaller one that 11 have.

    Raises:
        InvalidRequest: real numbers under differential privacy, which does not cover them, or of too few patients.
    """
    wanted = spec.images_per_patient
    if wanted is None:
        return None
    if isinstance(wanted, int):
        return {wanted: 1.0}
    if isinstance(wanted, dict):
        return {int(number): share for number, share in wanted.items() if share}
    if private:
        raise InvalidRequest(
            "how many images real patients have is not differentially private: say the number, or shares by number"
        )
    return _of_real(followed)


def _of_real(followed: pd.DataFrame) -> dict[int, float]:
    """Patients by images of one class, as shares; rare numbers are folded into their neighbour below."""
    images = followed.groupby(["patient_key", "class"]).size().to_numpy()
    numbers, patients_of = np.unique(images, return_counts=True)
    told: dict[int, float] = {}
    waiting = 0
    for number, patients in zip(numbers[::-1].tolist(), patients_of[::-1].tolist(), strict=True):
        waiting += patients
        if waiting >= SMALL_CELL:
            told[number] = float(waiting)
            waiting = 0
    if not told:
        raise InvalidRequest(f"fewer than {SMALL_CELL} real patients are there to follow in how many images they have")
    told[min(told)] += waiting
    total = sum(told.values())
    return {number: count / total for number, count in told.items()}


def told(table: pd.DataFrame) -> dict[int, int]:
    """Images of a patient -> patients; empty where the table has none."""
    if COLUMN not in table:
        return {}
    numbers, patients = np.unique(np.bincount(table[COLUMN].to_numpy(dtype=np.int64)), return_counts=True)
    return dict(zip(numbers.tolist(), patients.tolist(), strict=True))
