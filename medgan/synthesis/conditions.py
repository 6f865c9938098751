"""What of the attribute table an image is drawn for beside its class, in the words of the model's own fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medgan.gan import sample
from medgan.synthesis import attributes

_AGE = 0x616765
_OPEN_BAND_YEARS = 10


def of(table: pd.DataFrame, sampler: sample.Sampler, *, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Field name -> (N,) values: those of the model's fields that the table speaks of.

    A category that the model has not learned is left open. An age is drawn evenly from its row's band by `seed`.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    for field in sampler.fields:
        column = attributes.released_name(field.name)
        if column not in table:
            continue
        if column == "age_band":
            found[field.name] = _ages(table[column], seed)
        else:
            known = set(field.values)
            found[field.name] = table[column].map(lambda value, known=known: value if value in known else "").to_numpy()
    return found


def _ages(bands: pd.Series, seed: int) -> npt.NDArray[np.float64]:
    spans = {band: attributes.band_years(band) for band in set(bands)}
    low = bands.map({band: span[0] for band, span in spans.items()}).to_numpy(dtype=np.float64)
    beyond = {band: span[1] or span[0] + _OPEN_BAND_YEARS for band, span in spans.items()}
    width = bands.map(beyond).to_numpy(dtype=np.float64) - low
    share = np.random.Generator(np.random.Philox(key=[seed, _AGE])).random(len(bands))
    ages: npt.NDArray[np.float64] = np.floor(low + share * width)
    return ages
