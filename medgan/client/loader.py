"""Batches at memory speed: whole chunks decoded once an epoch, shuffled in pools, resumable to the batch.

Order of an epoch, a pure function of (seed, epoch): shards are shuffled, then the chunks within them, then
each pool of 4,096 rows. While one pool is handed out, threads of this process decode the next one; a worker
process would cost 55 us an image (measured, design page), a thread nothing, because decoding releases the GIL.
Without a shuffle chunks are decoded into the batches themselves, and no image is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medgan.client.agreement import mask_values
from medgan.client.shards import Images, ShardReader
from medgan.errors import InvalidRequest

POOL_ROWS = 4096
ORDERS = ("pooled", "chunks", "random", "sequential")
_BUFFERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to walk an array. `order`: pooled shuffle, whole shuffled chunks, true random rows, or sequential.

    `rank` of `world` gets every world-th chunk (row, for random); all ranks get equally many batches.
    """

    batch: int = 64
    order: str = "pooled"
    seed: int = 0
    rank: int = 0
    world: int = 1
    pool_rows: int = POOL_ROWS
    threads: int = 2
    drop_last: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be walked."""
        if self.order not in ORDERS:
            raise InvalidRequest(f"an order is one of {', '.join(ORDERS)}")
        if self.batch < 1 or self.pool_rows < 1 or self.threads < 1 or not 0 <= self.rank < self.world:
            raise InvalidRequest("batch, pool and threads must be at least 1, and the rank below the world size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`images` (B, H, W) in stored units, `rows` (B,) int64 of the array, `masks` (B, H, W) uint8 where wanted."""

    images: Images
    rows: npt.NDArray[np.int64]
    masks: Images | None = None


class Loader:
    """Iterates batches of one epoch a time; `state()` and `restore()` resume at the exact batch."""

    def __init__(
        self,
        reader: ShardReader,
        plan: Plan,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        masks: ShardReader | None = None,
        structures: int = 0,
    ) -> None:
        """Walk `reader` by `plan`; `keep` (N,) leaves out rows, for example those of another split.

        `masks`, of as many rows a chunk and a shard, are walked beside it; their values go up to `structures`.
        """
        if keep is not None and keep.shape != (len(reader),):
            raise InvalidRequest(f"{keep.size} marks were given for {len(reader)} images")
        self.reader, self.plan, self.keep = reader, plan, keep
        self.epoch = 0
        self._batch = 0
        self._held: list[Images] = [np.empty(0, reader.dtype)]
        self._structures = structures
        self._beside = None if masks is None else Loader(masks, plan, keep=keep)

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory that is decoded into."""
        return self.__dict__ | {"_held": self._held[:1]}

    def state(self) -> dict[str, int | str]:
        """Where we are: after `restore` of it the next batch is the one that would have come."""
        plan = self.plan
        return {
            "epoch": self.epoch,
            "batch": self._batch,
            "rank": plan.rank,
            "world": plan.world,
            "seed": plan.seed,
            "order": plan.order,
            "batch_size": plan.batch,
            "pool_rows": plan.pool_rows,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go where `state()` was taken; `InvalidRequest` when the plan is another one."""
        mine = self.state()
        if {key: state.get(key) for key in mine if key not in {"epoch", "batch"}} != {
            key: value for key, value in mine.items() if key not in {"epoch", "batch"}
        }:
            raise InvalidRequest("this state was taken under another plan: use the same seed, order, batch and ranks")
        self.epoch, self._batch = int(state["epoch"]), int(state["batch"])

    def __len__(self) -> int:
        """Batches an epoch for this rank."""
        rows = self._rows_a_rank()
        return rows // self.plan.batch if self.plan.drop_last or self.plan.world > 1 else -(-rows // self.plan.batch)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch; then the next one begins."""
        total = len(self)
        batches = self._walk(self._batch)
        try:
            while self._batch < total:
                batch = next(batches)
                self._batch += 1
                yield batch
        finally:
            batches.close()
        if self._batch >= total:
            self.epoch, self._batch = self.epoch + 1, 0

    def _walk(self, first: int) -> Generator[Batch, None, None]:
        return self._ordered(first) if self._beside is None else self._both(self._beside, first)

    def _both(self, beside: Loader, first: int) -> Generator[Batch, None, None]:
        """Images and masks, whose order is the same because plan, epoch and rows a chunk and a shard are."""
        beside.epoch = self.epoch
        with closing(self._ordered(first)) as images, closing(beside._ordered(first)) as masks:
            for batch, other in zip(images, masks, strict=True):
                yield replace(batch, masks=mask_values(other.images, self._structures))

    def _ordered(self, first: int) -> Generator[Batch, None, None]:
        return self._random(first) if self.plan.order == "random" else self._pooled(first)

    def _random(self, first: int) -> Generator[Batch, None, None]:
        order = self._rng(1).permutation(self._kept(np.arange(len(self.reader))))[self.plan.rank :: self.plan.world]
        for start in range(first * self.plan.batch, len(order), self.plan.batch):
            chosen = order[start : start + self.plan.batch]
            yield Batch(images=self.reader.gather(chosen), rows=chosen)

    def _pooled(self, first: int) -> Generator[Batch, None, None]:
        """Batches cut from one pool after the other; a batch may span two of them."""
        pools, skip, size = self._pools(), first * self.plan.batch, self.plan.batch
        while pools and skip >= len(pools[0].slots):
            skip -= len(pools.pop(0).slots)
        if not self.reader.layout.compressed:
            yield from self._mapped(pools, skip)
            return
        left = Batch(images=np.empty((0, *self.reader.shape[1:]), self.reader.dtype), rows=np.empty(0, np.int64))
        for pool, buffer in self._decoded(pools):
            slots, skip = pool.slots[skip:], 0
            start = min(size - len(left.rows), len(slots)) if len(left.rows) else 0
            if start:
                left = _joined(left, _taken(buffer, pool, slots[:start]))
                if len(left.rows) < size:
                    continue
                yield left
            whole = start + (len(slots) - start) // size * size
            for at in range(start, whole, size):
                yield _taken(buffer, pool, slots[at : at + size])
            left = _taken(buffer, pool, slots[whole:])
        if len(left.rows):
            yield left

    def _decoded(self, pools: list[_Pool]) -> Generator[tuple[_Pool, Images], None, None]:
        """Each pool with its decoded chunks (M, C, H, W); those of a shuffled one until the next is asked for."""
        if not pools:
            return
        buffers = self._buffers(pools)
        with ThreadPoolExecutor(self.plan.threads, thread_name_prefix="medgan-decode") as threads:
            buffer = next(buffers)
            decoding = self._decode(threads, pools[0], buffer)
            for pool, following in zip(pools, [*pools[1:], None], strict=True):
                for done in decoding:
                    done.result()
                ready = buffer
                if following is not None:
                    buffer = next(buffers)
                    decoding = self._decode(threads, following, buffer)
                yield pool, ready

    def _mapped(self, pools: list[_Pool], skip: int) -> Generator[Batch, None, None]:
        """The same order straight from mapped memory, where nothing needs decoding."""
        order = np.concatenate([pool.rows[pool.slots] for pool in pools])[skip:] if pools else np.empty(0, np.int64)
        for start in range(0, len(order), self.plan.batch):
            chosen = order[start : start + self.plan.batch]
            yield Batch(images=self.reader.gather(chosen), rows=chosen)

    def _decode(self, threads: ThreadPoolExecutor, pool: _Pool, buffer_MCHW: Images) -> list[Future[None]]:
        """Start decoding the chunks of a pool, a run of them for each thread."""
        runs = np.array_split(np.arange(len(pool.chunks)), self.plan.threads)
        return [threads.submit(self._decode_run, pool, run, buffer_MCHW) for run in runs if len(run)]

    def _decode_run(self, pool: _Pool, run: npt.NDArray[np.int64], buffer_MCHW: Images) -> None:
        for place in run.tolist():
            self.reader.chunk_into(int(pool.chunks[place]), buffer_MCHW[place])

    def _pools(self) -> list[_Pool]:
        chunks, size = self._chunks(), max(1, self._pool_rows // self.reader.layout.chunk_rows)
        return [self._pool(at // size, chunks[at : at + size]) for at in range(0, len(chunks), size)]

    @property
    def _pool_rows(self) -> int:
        """Rows decoded together: a pool to shuffle in; a few batches that stay in the cache where none is shuffled."""
        return self.plan.pool_rows if self.plan.order == "pooled" else min(self.plan.pool_rows, 4 * self.plan.batch)

    def _pool(self, number: int, chunks: npt.NDArray[np.int64]) -> _Pool:
        rows = (chunks[:, None] * self.reader.layout.chunk_rows + np.arange(self.reader.layout.chunk_rows)).reshape(-1)
        valid = rows < len(self.reader)
        if self.keep is not None:
            valid[valid] = self.keep[rows[valid]]
        slots = np.flatnonzero(valid)
        shuffled = self.plan.order == "pooled"
        if shuffled:
            slots = self._rng(2, number).permutation(slots)
        return _Pool(chunks=chunks, rows=rows, slots=slots, in_order=not shuffled)

    def _chunks(self, rank: int | None = None) -> npt.NDArray[np.int64]:
        """Chunk numbers of a rank (ours) in the order of this epoch."""
        layout = self.reader.layout
        rank = self.plan.rank if rank is None else rank
        chunks = np.arange(layout.chunks)
        if self.plan.order != "sequential":
            rng, per_shard = self._rng(0), layout.shard_rows // layout.chunk_rows
            shards = rng.permutation(-(-layout.chunks // per_shard))
            chunks = np.concatenate([rng.permutation(chunks[s * per_shard : (s + 1) * per_shard]) for s in shards])
        return chunks[rank :: self.plan.world]

    def _rows_a_rank(self) -> int:
        """Rows that every rank can hand out: those of the one that has fewest."""
        if self.plan.order == "random":
            kept = len(self._kept(np.arange(len(self.reader))))
            return kept if self.plan.world == 1 else kept // self.plan.world
        counts = np.array([self._kept_in(chunk) for chunk in range(self.reader.layout.chunks)], dtype=np.int64)
        return int(min(counts[self._chunks(rank)].sum() for rank in range(self.plan.world)))

    def _kept_in(self, chunk: int) -> int:
        if self.keep is None:
            return self.reader.rows_of(chunk)
        start = chunk * self.reader.layout.chunk_rows
        return int(self.keep[start : start + self.reader.layout.chunk_rows].sum())

    def _kept(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return rows if self.keep is None else rows[self.keep[rows]]

    def _buffers(self, pools: list[_Pool]) -> Iterator[Images]:
        """Room (M, C, H, W) for one pool after the other, used again once nobody holds a batch that is a part of it.

        New memory is zeroed by the kernel, which costs half as much as decoding into it: epochs share it.
        """
        layout, most = self.reader.layout, max(len(pool.chunks) for pool in pools)
        held = self._held
        if len(held) > 1 and len(held[1]) < most:
            del held[1:]
        for _ in pools:
            free = _unused(held)
            if free is None:
                free = np.empty((most, layout.chunk_rows, *layout.shape[1:]), layout.dtype)
                held.append(free)
                if len(held) > _BUFFERS:
                    del held[1]  # whoever holds it keeps it
            yield free

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.plan.seed, self.epoch, *purpose])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """Chunks decoded together; `rows[slot]` is the row in that slot, `slots` the valid ones in order of use."""

    chunks: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    in_order: bool


def _unused(held: list[Images]) -> Images | None:
    """A buffer with no more references than `held[0]`, which is never lent: how many that are depends on the Python."""
    counts = [sys.getrefcount(held[at]) for at in range(len(held))]
    return next((held[at] for at in range(1, len(held)) if counts[at] <= counts[0]), None)


def _taken(buffer_MCHW: Images, pool: _Pool, slots: npt.NDArray[np.int64]) -> Batch:
    """The images in `slots`: a part of the buffer itself where they are a run in a pool that is not shuffled."""
    flat = buffer_MCHW.reshape(-1, *buffer_MCHW.shape[2:])
    if pool.in_order and len(slots) and slots[-1] - slots[0] + 1 == len(slots):
        return Batch(images=flat[slots[0] : slots[-1] + 1], rows=pool.rows[slots])
    return Batch(images=np.take(flat, slots, axis=0), rows=pool.rows[slots])


def _joined(first: Batch, second: Batch) -> Batch:
    return Batch(images=np.concatenate([first.images, second.images]), rows=np.concatenate([first.rows, second.rows]))
