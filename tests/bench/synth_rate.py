"""Making a cohort beside the bare generator's loop: images a CPU-second, the second worker's worth, cost of a block.

    python -m tests.bench.synth_rate [--images 4096] [--rounds 3] [--sizes 64 128] [--kimg 0.032]

The models are trained for a moment only: their images are noise, their cost is that of any model of the recipe, and
noise compresses worst. "bare" is the network alone on ready latents and conditions, 16 at a time, in the same
arithmetic, memory layout and process: each worker runs it at the same time as the others, before and after every
cohort, so that what else the machine does weighs on both. "whole path" is everything that `generate` does on a running
cluster: attributes, latents, network, quantise, compress, write, digest, consolidate; CPU time of the workers and of
this process.

Other work on the machine moves the wall clock but hardly CPU time, so the second worker's worth is also told by CPU:
the longest worker and, as if it were all serial, this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
from distributed import Client, as_completed

from medgan import cluster
from medgan.gan import sample
from medgan.gan.train import train
from medgan.records import CohortSpec, TrainedModel, TrainRequest
from medgan.settings import Zones
from medgan.synthesis.blocks import generator
from medgan.synthesis.generate import generate
from tests.bench.__main__ import machine
from tests.builders.cohort import pneumonia_cohort

EMPTY_BLOCKS = 400
BARE_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds of each worker and of this process, wall seconds, and the bare loop's images a CPU-second then."""

    workers: tuple[float, ...]
    here: float
    wall: float
    bare: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return sum(self.workers) + self.here

    @property
    def path(self) -> float:
        """Longest way through it on idle cores, this process taken as serial."""
        return max(self.workers) + self.here


def bare_rate(model: TrainedModel, zones: Zones, precision: str, images: int) -> float:
    """Images a CPU-second of the network alone, one thread."""
    import torch

    from medgan.gan.arithmetic import fixed
    from medgan.gan.conditions import encode, joined

    sampler: sample.Sampler = generator(model, zones, precision)
    network = sampler._open()
    z_NZ = torch.randn(sample.BATCH, sampler.config.latent_dim)
    c = torch.from_numpy(joined(np.zeros(sample.BATCH, np.int64), encode(sampler.fields, {}, sample.BATCH)))
    with fixed(1), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(8):
            network(z_NZ, c)
        started = time.process_time()
        for _ in range(images // sample.BATCH):
            network(z_NZ, c)
        return images / (time.process_time() - started)


def bare_of_workers(client: Client, model: TrainedModel, zones: Zones, precision: str) -> float:
    """Images a CPU-second of the network alone, in every worker at once: their median."""
    loops = [
        client.submit(bare_rate, model, zones, precision, BARE_IMAGES, workers=[name], pure=False)
        for name in client.scheduler_info(n_workers=-1)["workers"]
    ]
    return median(client.gather(loops))


def whole_path(model: TrainedModel, zones: Zones, spec: CohortSpec, client: Client) -> Cost:
    """One cohort on a running cluster, between two runs of the bare loop."""
    first = bare_of_workers(client, model, zones, spec.precision)
    before, here, started = client.run(time.process_time), time.process_time(), time.perf_counter()
    generate(model, spec, zones=zones, scheduler=client.scheduler.address)
    here, wall = time.process_time() - here, time.perf_counter() - started
    after = client.run(time.process_time)
    bare = (first + bare_of_workers(client, model, zones, spec.precision)) / 2
    return Cost(workers=tuple(after[name] - before[name] for name in before), here=here, wall=wall, bare=bare)


def empty_block_ms(client: Client) -> float:
    """CPU milliseconds that Dask itself takes for a block, on both sides; as many in flight as `generate.draw` has."""
    list(map(client.submit, [nothing] * 8, range(8)))
    before, here = client.run(time.process_time), time.process_time()
    waiting = iter(range(EMPTY_BLOCKS))
    running = as_completed([client.submit(nothing, block, pure=False) for block in islice(waiting, 3 * len(before))])
    for finished in running:
        finished.result()
        for block in islice(waiting, 1):
            running.add(client.submit(nothing, block, pure=False))
    here = time.process_time() - here
    after = client.run(time.process_time)
    return 1000 * (here + sum(after[name] - before[name] for name in before)) / EMPTY_BLOCKS


def nothing(block: int) -> int:
    """What a block costs when it does nothing."""
    return block


def measure(size_px: int, precision: str, options: argparse.Namespace, zones: Zones) -> None:
    """One line a number of workers."""
    cohort = pneumonia_cohort(zones, images=400, size_px=size_px)
    model = train(cohort, TrainRequest(recipe=f"r3_dcgan_{size_px}", total_kimg=options.kimg), zones=zones)
    say(f"{size_px} px {precision}")
    costs: dict[int, list[Cost]] = {}
    for workers in (1, 2):
        with cluster.open_client(workers=workers) as client:
            warm = CohortSpec(images=1024 * workers, seed=10_000 + workers, precision=precision)
            whole_path(model, zones, warm, client)  # opens the model in every worker
            specs = [
                CohortSpec(images=options.images, seed=100 * workers + n, precision=precision)
                for n in range(options.rounds)
            ]
            costs[workers] = [whole_path(model, zones, spec, client) for spec in specs]
            block_ms = empty_block_ms(client)
        shares = sorted(options.images / cost.cpu / cost.bare for cost in costs[workers])
        rate = options.images / median(cost.cpu for cost in costs[workers])
        here = median(1e6 * cost.here / options.images for cost in costs[workers])
        wall_rate = options.images / median(cost.wall for cost in costs[workers])
        say(
            f"  whole path, {workers} worker(s) {rate:8.0f} images a CPU-second = {median(shares):.3f} of bare "
            f"({shares[0]:.3f} to {shares[-1]:.3f}), {here:.0f} us an image of it here; Dask {block_ms:.2f} CPU-ms a "
            f"block; {wall_rate:.0f} images/s"
        )
    by_cpu, by_wall = (
        median(getattr(c, name) for c in costs[1]) / median(getattr(c, name) for c in costs[2])
        for name in ("path", "wall")
    )
    say(f"  two workers             {by_cpu:8.2f} times one by CPU, {by_wall:.2f} by the wall clock")


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--kimg", type=float, default=0.032)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    options = parser.parse_args()
    say(f"machine: {machine()}; {options.images} images, median of {options.rounds}")
    for size_px in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for precision in options.precisions:
                measure(size_px, precision, options, Zones.under(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
