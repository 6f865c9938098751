"""What a cohort will cost and show, told before it is paid: images, blocks, bytes, seconds, attributes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod

import numpy as np

from medgan import cluster
from medgan.cohort.synthetic import CHUNK_IMAGES, usual_images
from medgan.gan import outliner, sample
from medgan.records import CohortSpec, TrainedModel
from medgan.settings import Zones
from medgan.synthesis import blocks, patients, rows, shard

_PROBE_IMAGES = 128
_WORTH = 1.2
"""The other arithmetic is spoken of where it is at least this many times as fast here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cost of a cohort. Sizes in memory are exact; `stored_bytes` and `seconds` come from a measured probe.

    `marginals`: attribute -> value -> images; `left_out`: share of real patients in groups too small to be told;
    `patients`: images of a patient -> patients, where images are given to any;
    `other_precision`: how many times as fast the arithmetic is that was not asked for.
    """

    images: int
    blocks: int
    workers: int
    raw_bytes: int
    block_bytes: int
    stored_bytes: int
    images_per_second: float
    seconds: float
    precision: str
    other_precision: float
    marginals: dict[str, dict[str, int]]
    patients: dict[int, int]
    left_out: float

    def __str__(self) -> str:
        """One line for a terminal."""
        return (
            f"{self.images:,} images in {self.blocks:,} blocks, {self.raw_bytes / 1e6:,.1f} MB raw, about "
            f"{self.stored_bytes / 1e6:,.1f} MB stored, about {self.seconds:,.0f} s on {self.workers} workers"
        )

    def lines(self) -> list[str]:
        """The plan for people: cost, then what the table will hold, then what to know."""
        told = [str(self)]
        for name, counts in self.marginals.items():
            told.append(
                f"{name.replace('_', ' ')}: " + ", ".join(f"{value} {count:,}" for value, count in counts.items())
            )
        if self.patients:
            by_number = ", ".join(f"{count:,} of {number:,}" for number, count in self.patients.items())
            told.append(f"patients: {sum(self.patients.values()):,}; by their images: {by_number}")
        if self.left_out:
            told.append(f"{self.left_out:.1%} of real patients are in groups of fewer than 11 and are not followed")
        if self.other_precision >= _WORTH:
            other = "bf16" if self.precision == "fp32" else "fp32"
            told.append(f"precision {other} is {self.other_precision:.1f} times as fast here; it gives other bytes")
        return told


def plan(
    model: TrainedModel,
    spec: CohortSpec,
    *,
    zones: Zones,
    workers: int | None = None,
    block_images: int | None = None,
) -> Plan:
    """Plan `spec`: sizes exactly, time from a probe of 128 images on one thread, compressed as they will be.

    Writes nothing into the synthetic zone. `InvalidRequest` for whatever `generate` would refuse.
    """
    decided = rows.decide(model, spec, zones=zones)
    count = cluster.available_cores() if workers is None else workers
    sampler = blocks.generator(model, zones, spec.precision)
    network = outliner.of_model(model, zones)
    rate, packed_bytes = _probe(sampler, network, spec.seed)
    other = sample.open_generator(model, zones=zones, precision="bf16" if spec.precision == "fp32" else "fp32")
    other_rate, _ = _probe(other, network, spec.seed)
    block_images = block_images or usual_images(sampler.shape)
    image_bytes = (3 if model.outliner else 2) * prod(sampler.shape)
    return Plan(
        images=spec.images,
        blocks=-(-spec.images // block_images),
        workers=count,
        raw_bytes=spec.images * image_bytes,
        block_bytes=min(spec.images, block_images) * image_bytes,
        stored_bytes=round(spec.images * packed_bytes),
        images_per_second=rate,
        seconds=spec.images / rate / count,
        precision=spec.precision,
        other_precision=other_rate / rate,
        marginals={
            name: {str(value): int(n) for value, n in decided.table[name].value_counts().sort_index().items()}
            for name in decided.model.columns
        },
        patients=patients.told(decided.table),
        left_out=decided.model.left_out,
    )


def _probe(sampler: sample.Sampler, network: outliner.Network | None, seed: int) -> tuple[float, float]:
    """(images a second, stored bytes an image) of one thread that draws, outlines and compresses 128 images."""
    ids = np.arange(_PROBE_IMAGES, dtype=np.int64)
    classes = ids % len(sampler.classes)
    sampler.images(ids[: sample.BATCH], classes[: sample.BATCH], seed=seed)  # opens the weights
    started = time.perf_counter()
    made_NHW = sampler.images(ids, classes, seed=seed)
    packed = shard.pack(made_NHW, chunk_rows=CHUNK_IMAGES, shard_rows=_PROBE_IMAGES)
    if network is not None:
        masks_NHW = outliner.outlined(network, made_NHW, sampler.attrs)
        packed += shard.pack(masks_NHW, chunk_rows=CHUNK_IMAGES, shard_rows=_PROBE_IMAGES)
    seconds = max(time.perf_counter() - started, 1e-9)
    return _PROBE_IMAGES / seconds, len(packed) / _PROBE_IMAGES
