"""Making a cohort beside the bare generator's loop: images a CPU-second, the second worker's worth, cost of a block.

    python -m tests.bench.synth_rate [--images 4096] [--rounds 3] [--sizes 64 128] [--kimg 0.032]

The models are trained for a moment only: their images are noise, their cost is that of any model of the recipe, and
noise compresses worst. "bare" is the network alone on ready latents and conditions, 16 at a time, in the same
arithmetic, memory layout and process: each worker runs it at the same time as the others, before and after every
cohort, so that what else the machine does weighs on both. "whole path" is everything that `generate` does on a running
cluster: attributes, latents, network, quantise, compress, write, digest, consolidate; CPU time of the workers and of
this process. "Dask" is the CPU time a block, of 200 blocks of 128 images, that workers and this process spend while
blocks are drawn, less that in `blocks.write` and less what the same cluster takes when it does nothing, told beside it.

Other work on the machine moves the wall clock but hardly CPU time, so the second worker's worth is also told by CPU:
the longest worker and, as if it were all serial, this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
from distributed import Client

from medgan import cluster
from medgan.gan import sample
from medgan.gan.train import train
from medgan.records import CohortSpec, TrainedModel, TrainRequest
from medgan.settings import Zones
from medgan.synthesis import blocks, generate
from medgan.synthesis.blocks import generator
from medgan.synthesis.dispatch import Run, draw
from tests.bench.__main__ import machine
from tests.builders.cohort import pneumonia_cohort

DASK_BLOCKS, DASK_BLOCK_IMAGES, IDLE_SECONDS = 200, 128, 5
BARE_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU seconds of each worker and of this process, wall seconds, and the bare loop's images a CPU-second then.

    `drawing`: wall seconds from the first block's submission to the last one's answer, without table and record.
    """

    workers: tuple[float, ...]
    here: float
    wall: float
    drawing: float
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
    drawing = 0.0

    def timed(todo: Sequence[blocks.Block], total: int, run: Run) -> dict[int, bytes]:
        nonlocal drawing
        begun = time.perf_counter()
        drawn = draw(todo, total, run)
        drawing = time.perf_counter() - begun
        return drawn

    with mock.patch.object(generate, "draw", timed):
        generate.generate(model, spec, zones=zones, scheduler=client.scheduler.address)
    here, wall = time.process_time() - here, time.perf_counter() - started
    after = client.run(time.process_time)
    bare = (first + bare_of_workers(client, model, zones, spec.precision)) / 2
    spent = tuple(after[name] - before[name] for name in before)
    return Cost(workers=spent, here=here, wall=wall, drawing=drawing, bare=bare)


def dask_block_ms(model: TrainedModel, zones: Zones, precision: str, client: Client) -> tuple[float, float]:
    """CPU milliseconds of Dask a block, and a second of a cluster that does nothing.

    What workers and this process spend while blocks are drawn, less the drawing and writing: graph, messages, threads,
    connecting. What the cluster takes by itself (heartbeats, monitors) is taken off by its own rate, and told.
    """
    client.run(clock_blocks)
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    idle = spending(client, lambda: time.sleep(IDLE_SECONDS))[0] / IDLE_SECONDS
    spent = 0.0

    def clocked(todo: Sequence[blocks.Block], total: int, run: Run) -> dict[int, bytes]:
        nonlocal spent
        digests: dict[int, bytes] = {}
        seconds, wall = spending(client, lambda: digests.update(draw(todo, total, run)))
        spent = seconds - idle * wall
        return digests

    with mock.patch.object(generate, "draw", clocked):
        spec = CohortSpec(images=DASK_BLOCKS * DASK_BLOCK_IMAGES, seed=77 + workers, precision=precision)
        run = Run(scheduler=client.scheduler.address, block_images=DASK_BLOCK_IMAGES)
        generate.generate(model, spec, zones=zones, run=run)
    return 1000 * spent / DASK_BLOCKS, 1000 * idle


def spending(client: Client, do: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of workers and this process beside `blocks.write`, and wall seconds, while it is done."""
    before, here, begun = client.run(spent_here), time.process_time(), time.perf_counter()
    do()
    here, wall = time.process_time() - here, time.perf_counter() - begun
    after = client.run(spent_here)
    return here + sum(after[name] - before[name] for name in before), wall


def clock_blocks() -> None:
    """Have this worker add up what its thread spends in `blocks.write`."""
    from medgan.synthesis import blocks

    write = blocks.write

    def clocked(block: blocks.Block) -> bytes:
        started = time.thread_time()
        digests = write(block)
        clocked.seconds += time.thread_time() - started  # type: ignore[attr-defined]
        return digests

    clocked.seconds = 0.0  # type: ignore[attr-defined]
    blocks.write = clocked


def spent_here() -> float:
    """CPU seconds of this worker beside `blocks.write`."""
    from medgan.synthesis import blocks

    return time.process_time() - blocks.write.seconds  # type: ignore[attr-defined,no-any-return]


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
            block_ms, idle_ms = dask_block_ms(model, zones, precision, client)
        shares = sorted(options.images / cost.cpu / cost.bare for cost in costs[workers])
        rate = options.images / median(cost.cpu for cost in costs[workers])
        here = median(1e6 * cost.here / options.images for cost in costs[workers])
        wall_rate = options.images / median(cost.wall for cost in costs[workers])
        say(
            f"  whole path, {workers} worker(s) {rate:8.0f} images a CPU-second = {median(shares):.3f} of bare "
            f"({shares[0]:.3f} to {shares[-1]:.3f}), {here:.0f} us an image of it here; Dask {block_ms:.2f} CPU-ms a "
            f"block and {idle_ms:.1f} a second; {wall_rate:.0f} images/s"
        )
    by_cpu, by_wall, drawing = (
        median(getattr(c, name) for c in costs[1]) / median(getattr(c, name) for c in costs[2])
        for name in ("path", "wall", "drawing")
    )
    say(
        f"  two workers             {by_cpu:8.2f} times one by CPU, {by_wall:.2f} by the wall clock, {drawing:.2f} "
        "while blocks are drawn"
    )


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
