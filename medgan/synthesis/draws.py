"""Which draw an image is: row i is first drawn with sample id i, and again with ids that no other row ever has.

A sample id is row + 2^40 x draw. It stays on its row's place in the generator's batch of 16, so that a draw's bytes do
not depend on what is drawn beside it. Draws 1 to 31 belong to the label check, 32 x attempt to `redraw`.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from medgan.errors import InvalidRequest

STRIDE = 1 << 40
PER_ATTEMPT = 32
MOST_ATTEMPTS = (1 << 62) // (STRIDE * PER_ATTEMPT)

Ids = npt.NDArray[np.int64]


def sample_id(rows: Ids, draw: int) -> Ids:
    """Sample ids (n,) of the `draw`-th draw of rows (n,)."""
    return np.asarray(rows, dtype=np.int64) % STRIDE + STRIDE * draw


def attempt_id(rows: Ids, attempt: int) -> Ids:
    """Sample ids (n,) of the `attempt`-th redraw, counted from 1; `InvalidRequest` for an attempt that cannot be."""
    if not 1 <= attempt <= MOST_ATTEMPTS:
        raise InvalidRequest(f"attempts are counted from 1 to {MOST_ATTEMPTS:,}")
    return sample_id(rows, PER_ATTEMPT * attempt)


def again(ids: Ids) -> int:
    """How many of these sample ids are not a row's first draw."""
    return int((np.asarray(ids) >= STRIDE).sum())


def pack(ids: Ids, seen: npt.NDArray[np.bool_]) -> bytes:
    """A block's draws as bytes: (2, n) int64, the sample ids and whether the classifier saw the class asked for."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack([ids, seen.astype(np.int64)]), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Inverse of `pack`."""
    ids, seen = np.load(io.BytesIO(data), allow_pickle=False)
    return ids, seen.astype(bool)
