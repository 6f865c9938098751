"""What a cohort will cost, told before it is paid: images, blocks, bytes, seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from medgan import cluster
from medgan.cohort.synthetic import SHARD_IMAGES
from medgan.records import CohortSpec, TrainedModel
from medgan.settings import Zones
from medgan.synthesis.blocks import generator

_PROBE_IMAGES = 64
_PACKED_SHARE = 0.7
"""Compressed share of raw bytes that smooth 16-bit images were seen to take at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of a cohort: `raw_bytes` in memory, `stored_bytes` and `seconds` estimated from a measured probe."""

    images: int
    blocks: int
    workers: int
    raw_bytes: int
    block_bytes: int
    stored_bytes: int
    images_per_second: float
    seconds: float

    def __str__(self) -> str:
        """One line for a terminal."""
        return (
            f"{self.images:,} images in {self.blocks:,} blocks, {self.raw_bytes / 1e6:,.1f} MB raw, about "
            f"{self.stored_bytes / 1e6:,.1f} MB stored, about {self.seconds:,.0f} s on {self.workers} workers"
        )


def plan(model: TrainedModel, spec: CohortSpec, *, zones: Zones, workers: int | None = None) -> Plan:
    """Plan `spec`: sizes exactly, time from a probe of 64 images on one thread. Writes nothing."""
    sampler = generator(model, zones)
    count = cluster.available_cores() if workers is None else workers
    ids = np.arange(_PROBE_IMAGES, dtype=np.int64)
    zeros = np.zeros(_PROBE_IMAGES, dtype=np.int64)
    sampler.images(ids[:16], zeros[:16], seed=spec.seed)
    started = time.perf_counter()
    sampler.images(ids, zeros, seed=spec.seed)
    rate = _PROBE_IMAGES / max(time.perf_counter() - started, 1e-9)
    image_bytes = 2 * model.size_px**2
    return Plan(
        images=spec.images,
        blocks=-(-spec.images // SHARD_IMAGES),
        workers=count,
        raw_bytes=spec.images * image_bytes,
        block_bytes=min(spec.images, SHARD_IMAGES) * image_bytes,
        stored_bytes=int(_PACKED_SHARE * spec.images * image_bytes),
        images_per_second=rate,
        seconds=spec.images / rate / count,
    )
