"""How to lay small images and volumes out in Icechunk: the figures behind the ADR on packing.

    python -m tests.bench.ingest_packing [IMAGES]     default 2,000 radiographs of 28 x 28

One table: one array an image, and packs of several chunk and shard sizes and codecs, written in one commit, then read
in order and one by one at random. Objects are files of the repository. Medians of three, CPU seconds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from medgan.archive import phantom
from tests.bench.__main__ import machine
from tests.builders.cohort import radiographs

REPEATS = 3
RANDOM_READS = 200
KIB, MIB = 1024, 1024 * 1024

Write = Callable[[zarr.Group, np.ndarray], None]


def main(images: int) -> None:
    small = radiographs(images)[0]
    volume = np.stack([slice_of(i) for i in range(64)])
    say(f"machine: {machine()}, {images:,} images of 28 x 28 uint8; a CT phantom of {len(volume)} slices of 512 x 512")
    say(f"{'layout':<44}{'objects':>8}{'MiB':>8}{'write s':>9}{'in order /s':>13}{'random /s':>11}")
    row("one array an image", small, one_array_each, each=True)
    for chunk, shard in ((64 * KIB, 16 * MIB), (256 * KIB, 16 * MIB), (1 * MIB, 16 * MIB), (256 * KIB, 64 * MIB)):
        row(f"packs, chunk {chunk // KIB} KiB, shard {shard // MIB} MiB", small, pack(chunk, shard))
    for name, codec in codecs(1).items():
        row(f"packs, {name}", small, pack(256 * KIB, 16 * MIB, codec))
    for name, codec in codecs(2).items():
        row(f"CT volume, {name}", volume, pack(256 * KIB, 16 * MIB, codec))


def codecs(itemsize: int) -> dict[str, Any]:
    blosc = {shuffle: BloscCodec(cname="zstd", clevel=3, shuffle=shuffle, typesize=itemsize) for shuffle in SHUFFLES}
    lz4 = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=itemsize)
    return {f"blosc zstd 3 {shuffle}": codec for shuffle, codec in blosc.items()} | {
        "blosc lz4 5 shuffle": lz4,
        "zstd 3": ZstdCodec(level=3),
    }


SHUFFLES = ("shuffle", "bitshuffle", "noshuffle")


def slice_of(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return (phantom._disc(512, 512, number, signed=True) + rng.normal(0, 12, (512, 512))).astype(np.int16)


def one_array_each(group: zarr.Group, images: np.ndarray) -> None:
    for number, image in enumerate(images):
        group.create_array(f"{number:06d}", data=image)


def pack(chunk_bytes: int, shard_bytes: int, codec: Any = None) -> Write:
    def write(group: zarr.Group, images: np.ndarray) -> None:
        chunk = max(1, chunk_bytes // images[0].nbytes)
        shard = chunk * max(1, shard_bytes // (chunk * images[0].nbytes))
        default = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=images.dtype.itemsize)
        array = group.create_array(
            "images", shape=images.shape, dtype=images.dtype, chunks=(chunk, *images.shape[1:]),
            shards=(shard, *images.shape[1:]), compressors=[codec or default, Crc32cCodec()],
        )  # fmt: skip
        for start in range(0, len(images), shard):
            array[start : start + shard] = images[start : start + shard]

    return write


def row(name: str, images: np.ndarray, write: Write, *, each: bool = False) -> None:
    writes, ordered, scattered, objects, size = [], [], [], 0, 0
    for _ in range(1 if each else REPEATS):
        with tempfile.TemporaryDirectory(prefix="ingest-packing-") as folder:
            repository = icechunk.Repository.create(icechunk.local_filesystem_storage(folder))
            started = time.process_time()
            session = repository.writable_session("main")
            write(zarr.open_group(session.store, mode="a"), images)
            session.commit("all")
            writes.append(time.process_time() - started)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            objects, size = len(files), sum(path.stat().st_size for path in files)
            group = zarr.open_group(repository.readonly_session("main").store, mode="r")
            ordered.append(len(images) / seconds_of(in_order(group, images, each=each)))
            scattered.append(min(RANDOM_READS, len(images)) / seconds_of(at_random(group, images, each=each)))
    median = statistics.median
    rates = f"{median(ordered):>13,.0f}{median(scattered):>11,.0f}"
    say(f"{name:<44}{objects:>8,}{size / MIB:>8.1f}{median(writes):>9.2f}{rates}")


def seconds_of(reads: Iterator[np.ndarray]) -> float:
    started = time.process_time()
    for _ in reads:
        pass
    return time.process_time() - started


def in_order(group: zarr.Group, images: np.ndarray, *, each: bool) -> Iterator[np.ndarray]:
    if each:
        yield from (np.asarray(group[f"{number:06d}"][:]) for number in range(len(images)))
        return
    array = group["images"]
    for start in range(0, len(images), array.shards[0]):
        yield np.asarray(array[start : start + array.shards[0]])


def at_random(group: zarr.Group, images: np.ndarray, *, each: bool) -> Iterator[np.ndarray]:
    for number in np.random.default_rng(0).permutation(len(images))[:RANDOM_READS]:
        yield np.asarray(group[f"{number:06d}"][:] if each else group["images"][int(number)])


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    icechunk.set_logs_filter("error")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
