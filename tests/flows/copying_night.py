"""`python -m flows`, with a generator that hands out training images: the memoriser that the gate is there for.

Only the sampler is replaced; Dask runs in this process so that its workers have the replacement too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from distributed import LocalCluster

from flows.__main__ import main
from medgan.cohort import read
from medgan.gan import sample
from medgan.settings import Zones


def _copies(
    sampler: sample.Sampler, ids: np.ndarray, class_index: np.ndarray, *, seed: int, conditions=None
) -> np.ndarray:
    """(N,) ids and classes to (N, H, W) uint16: real training images of those classes."""
    zones = Zones.under(sampler.folder.parents[2])
    (cohort,) = (path.name for path in Path(zones.pseudonymised / "cohorts").glob("co-*"))
    images, classes, _ = read.load(cohort, zones=zones).split("train")
    pools = [np.flatnonzero(classes == index) for index in range(int(classes.max()) + 1)]
    rows = [pools[index][(number + seed) % len(pools[index])] for number, index in zip(ids, class_index, strict=True)]
    return np.asarray(images)[rows]


if __name__ == "__main__":
    sample.Sampler.images = _copies
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        os.environ["MEDGAN_DASK_SCHEDULER"] = cluster.scheduler_address
        sys.exit(main())
