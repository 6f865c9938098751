"""Making a cohort beside the bare generator's loop: images a CPU-second, the second worker's worth, cost of a block.

    python -m tests.bench.synth_rate [--images 8192] [--rounds 3]

The model is trained for a moment only: its images are noise, its cost is that of any model of this recipe. "whole
path" is attributes, latents, network, quantise, compress, write, digest and consolidate, by CPU time of the workers
and this process, without the start of the cluster. On a busy machine trust the CPU figures, not the wall ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from medgan import cluster
from medgan.gan import sample
from medgan.records import CohortSpec, TrainedModel
from medgan.settings import Zones
from medgan.synthesis.blocks import generator
from medgan.synthesis.generate import generate
from tests.bench.__main__ import machine
from tests.builders.cohort import pneumonia_cohort
from tests.builders.model import brief_model


def bare_rate(model: TrainedModel, zones: Zones, images: int) -> float:
    """Images a CPU-second of the network alone on ready latents, 16 at a time, one thread."""
    import torch

    from medgan.gan.arithmetic import fixed

    sampler: sample.Sampler = generator(model, zones)
    network = sampler._open()
    z_NZ = torch.randn(sample.BATCH, sampler.config.latent_dim)
    c_N = torch.zeros(sample.BATCH, dtype=torch.int64)
    with fixed(1), torch.inference_mode():
        for _ in range(8):
            network(z_NZ, c_N)
        started = time.process_time()
        for _ in range(images // sample.BATCH):
            network(z_NZ, c_N)
        return images / (time.process_time() - started)


def cpu_seconds() -> float:
    """User and system time of this process and of its descendants."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)


def whole_path(model: TrainedModel, zones: Zones, images: int, seed: int, address: str) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of one cohort on a running cluster."""
    before, started = cpu_seconds(), time.perf_counter()
    generate(model, CohortSpec(images=images, seed=seed), zones=zones, scheduler=address)
    return cpu_seconds() - before, time.perf_counter() - started


def nothing(block: int) -> int:
    """What a block costs when it does nothing."""
    return block


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"machine: {machine()}; {options.images} images of 32 px, median of {options.rounds}")  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        zones = Zones.under(Path(folder))
        model = brief_model(pneumonia_cohort(zones, images=400), zones)
        bare = median(bare_rate(model, zones, 2048) for _ in range(options.rounds))
        print(f"bare generator loop        {bare:10.0f} images a CPU-second")  # noqa: T201
        walls = {}
        for workers in (1, 2):
            with cluster.open_client(workers=workers) as client:
                address = client.scheduler.address
                whole_path(model, zones, 2048, 10_000 + workers, address)  # opens the model once a worker
                runs = [
                    whole_path(model, zones, options.images, 100 * workers + seed, address)
                    for seed in range(options.rounds)
                ]
                list(map(client.submit, [nothing] * 8, range(8)))
                started = time.perf_counter()
                client.gather(client.map(nothing, np.arange(500).tolist(), pure=False))
                block_ms = 2 * (time.perf_counter() - started)
            cpu, walls[workers] = median(run[0] for run in runs), median(run[1] for run in runs)
            rate = options.images / cpu
            print(  # noqa: T201
                f"whole path, {workers} worker(s)    {rate:10.0f} images a CPU-second ({rate / bare:.2f} of bare), "
                f"{options.images / walls[workers]:.0f} images/s, Dask {block_ms:.2f} ms a block"
            )
        print(f"second worker              {walls[1] / walls[2]:10.2f} times the first alone")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
