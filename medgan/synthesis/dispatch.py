"""Blocks on Dask: a task takes a stretch of consecutive blocks, and a few tasks a worker are in flight.

A task costs Dask some milliseconds on both sides whatever it does, so quick blocks share one (docs/adr/0075). Each is
still one shard and one atomic write: a stretch that lost its worker goes on, elsewhere, behind the shards that stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medgan import cluster
from medgan.cohort.synthetic import CHUNK_IMAGES
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.synthesis import blocks

if TYPE_CHECKING:
    from distributed import Client, Future

OnProgress = Callable[[int, int], None]

_STRETCH_SECONDS = 5.0
"""Of work in one task: enough that Dask's part is lost in it, little enough that a bar moves."""
_IN_FLIGHT_PER_WORKER = 2
"""One that is drawn and one that waits: no worker idles while an answer travels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where and how blocks are drawn; nothing here changes a byte.

    `workers` of the embedded cluster (one a core if None), or a Dask `scheduler` address; `resources` each block needs
    (`{"GPU": 1}`); `block_images` a block and shard, a multiple of 16 (None: `synthetic.usual_images`);
    `on_progress(done, total)` counts images.
    """

    workers: int | None = None
    scheduler: str | None = None
    resources: Mapping[str, float] | None = None
    block_images: int | None = None
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        """Refuse a block that is no whole number of chunks."""
        if self.block_images is not None and (self.block_images < CHUNK_IMAGES or self.block_images % CHUNK_IMAGES):
            raise InvalidRequest(f"a block holds a multiple of {CHUNK_IMAGES} images, not {self.block_images}")


def draw(todo: Sequence[blocks.Block], total: int, run: Run) -> dict[int, blocks.Digests]:
    """Have every block written and give their digests by first row; `total` images are the whole cohort.

    Raises:
        InvalidRequest: no worker has the resources, sees the zones, or runs this version of medgan.
        StoreUnavailable: the scheduler or its workers do not answer, or die of these blocks.
    """
    done = total - sum(len(block) for block in todo)
    digests: dict[int, blocks.Digests] = {}
    if run.on_progress is not None:
        run.on_progress(done, total)
    if not todo:
        return digests
    count = None if run.workers is None else min(run.workers, len(todo))
    with cluster.open_client(workers=count, scheduler=run.scheduler) as client:
        for stretch in _written(client, todo, run):
            digests |= {written.start: written.digests for written in stretch}
            done += sum(written.images for written in stretch)
            if run.on_progress is not None:
                run.on_progress(done, total)
    return digests


def _written(client: Client, todo: Sequence[blocks.Block], run: Run) -> Iterator[list[blocks.Written]]:
    """The stretches as they come back, each as long as the last one says that blocks take."""
    from distributed import KilledWorker, as_completed

    workers = _checked_workers(client, todo[0], run)
    needs = dict(run.resources) if run.resources else None
    at = 0

    def submitted(length: int) -> Future[list[blocks.Written]]:
        nonlocal at
        stretch, at = todo[at : at + length], at + length
        return client.submit(blocks.write_stretch, stretch, pure=False, resources=needs)

    first = [submitted(1) for _ in range(min(_IN_FLIGHT_PER_WORKER * workers, len(todo)))]
    running = as_completed(first)  # type: ignore[no-untyped-call]
    for finished in running:
        try:
            stretch: list[blocks.Written] = finished.result()
        except KilledWorker:
            raise StoreUnavailable(
                "one block ended several workers, most likely for want of memory: give workers more memory or take "
                "smaller blocks, then run again; what is drawn is kept"
            ) from None
        if at < len(todo):
            seconds = sum(written.seconds for written in stretch) / len(stretch)
            running.add(submitted(stretch_length(seconds, len(todo) - at, workers)))  # type: ignore[no-untyped-call]
        yield stretch


def stretch_length(block_seconds: float, left: int, workers: int) -> int:
    """Blocks of the next task: seconds of work, and towards the end ever fewer, so that workers end together."""
    even = left // (_IN_FLIGHT_PER_WORKER * workers)
    return max(1, min(even, int(_STRETCH_SECONDS / max(block_seconds, 1e-6))))


def _checked_workers(client: Client, block: blocks.Block, run: Run) -> int:
    """How many workers can take a block; refused at once where none can: Dask would wait for ever in silence."""
    cluster.wait_for_workers(client)
    able = cluster.workers_with(client, run.resources or {})
    seen = client.run(blocks.sees, block.target, block.model, block.zones, workers=able)
    if any(version != blocks.version() for version, _ in seen.values()):
        raise InvalidRequest("some of the scheduler's workers run another version of medgan: install the same on all")
    if not all(there for _, there in seen.values()):
        raise InvalidRequest(
            "some of the scheduler's workers do not see the zones where this process sees them: mount them at one path"
        )
    return len(able)
