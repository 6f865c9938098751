"""Loaders beside each other on one array of 128 x 128 uint16: CPU microseconds an image, images a second, bytes.

    python -m tests.bench.loader_speed [--images 50000] [--folder /tmp/medgan-bench] [--only NAME ...]

The images are the carried radiographs, enlarged to 128 px (bicubic) with the 8 bits of their source in uint16;
`--bits 12 --noise 2` makes them what a detector delivers, which no lossless codec packs as well. Everything runs
in one process with one thread unless the name says otherwise; CPU time is that of all threads. Other libraries
are measured where they are installed: pip install tensorstore litdata webdataset datasets.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from medgan.client import loader, shards
from medgan.release.images import BLOCK_BYTES, LEVEL
from tests.builders.release import SAMPLES

SIZE, BATCH, REPEATS = 128, 64, 3
Epoch = Callable[[], Iterator[int]]


def images(count: int, bits: int, noise: float) -> Iterator[np.ndarray]:
    """Blocks of at most 1,024 images (n, 128, 128) uint16 of `bits` bits."""
    with np.load(SAMPLES, allow_pickle=False) as held:
        real = held["train_images"].astype(np.float32) * 2 ** (bits - 8)
    rng = np.random.default_rng(0)
    for start in range(0, count, 1024):
        rows = np.arange(start, min(start + 1024, count)) % len(real)
        enlarged = [Image.fromarray(real[row]).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for row in rows]
        block = np.stack([np.asarray(picture) for picture in enlarged])
        if noise:
            block = block + rng.normal(0, noise, block.shape)
        yield np.clip(np.rint(block), 0, 2**bits - 1).astype(np.uint16)


def build(folder: Path, count: int, bits: int, noise: float) -> None:
    """Write the array once in every form that is measured without other libraries."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    codecs = {
        "zstd": [
            BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle", typesize=2, blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        ],
        "lz4": [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=2), Crc32cCodec()],
    }
    arrays = {
        name: zarr.create_group(folder / f"{name}.zarr", zarr_format=3).create_array(
            "images", shape=(count, SIZE, SIZE), dtype="uint16", chunks=(16, SIZE, SIZE), shards=(1024, SIZE, SIZE),
            compressors=codecs.get(name), fill_value=0, config={"write_empty_chunks": True},
        )
        for name in ("zstd", "lz4", "raw")
    }  # fmt: skip
    plain = np.lib.format.open_memmap(folder / "plain.npy", mode="w+", dtype=np.uint16, shape=(count, SIZE, SIZE))
    for number, block in enumerate(images(count, bits, noise)):
        start = number * 1024
        plain[start : start + len(block)] = block
        for array in arrays.values():
            array[start : start + len(block)] = block
    plain.flush()
    (folder / "done").touch()


def ours(path: Path, order: str, threads: int = 1) -> Epoch:
    """Our loader over one tier."""
    reader = shards.open_images(path / "images")
    walk = loader.Loader(reader, loader.Plan(batch=BATCH, order=order, threads=threads))
    return lambda: (len(batch.rows) for batch in walk)


def memmap(path: Path) -> Epoch:
    """numpy.memmap, random rows, copied into a batch."""
    plain = np.load(path, mmap_mode="r")
    rng = np.random.default_rng(0)

    def epoch() -> Iterator[int]:
        order = rng.permutation(len(plain))
        for start in range(0, len(order), BATCH):
            yield len(plain[order[start : start + BATCH]])

    return epoch


def zarr_python(path: Path, *, pooled: bool) -> Epoch:
    """zarr-python: pools of 4,096 read by whole chunks, or 2,000 single images at random places."""
    import zarr

    array = zarr.open_array(path / "images", mode="r")
    rng = np.random.default_rng(0)

    def pools() -> Iterator[int]:
        for start in range(0, array.shape[0], 4096):
            block = array[start : start + 4096]
            order = rng.permutation(len(block))
            for at in range(0, len(order), BATCH):
                yield len(block[order[at : at + BATCH]])

    def single() -> Iterator[int]:
        for row in rng.integers(0, array.shape[0], 2000):
            yield len(array[int(row)][None])

    return pools if pooled else single


def tensorstore_pooled(path: Path) -> Epoch:
    """tensorstore, pools of 4,096."""
    import tensorstore

    limits = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "images")}, "context": limits}
    ).result()
    rng = np.random.default_rng(0)

    def epoch() -> Iterator[int]:
        for start in range(0, array.shape[0], 4096):
            block = array[start : min(start + 4096, array.shape[0])].read().result()
            order = rng.permutation(len(block))
            for at in range(0, len(order), BATCH):
                yield len(block[order[at : at + BATCH]])

    return epoch


def huggingface(folder: Path) -> Epoch:
    """Hugging Face Arrow, map-style, shuffled, numpy format."""
    import datasets

    where, plain = folder / "hf", np.load(folder / "plain.npy", mmap_mode="r")
    if not where.exists():
        features = datasets.Features({"image": datasets.Array2D((SIZE, SIZE), "uint16")})

        def rows() -> Iterator[dict]:
            for image in plain[:10000]:
                yield {"image": image}

        datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "hf-cache")).save_to_disk(
            str(where)
        )
    held = datasets.load_from_disk(str(where)).with_format("numpy")

    def epoch() -> Iterator[int]:
        order = np.random.default_rng(0).permutation(len(held))
        for start in range(0, len(order), BATCH):
            yield len(held[order[start : start + BATCH]]["image"])

    return epoch


def webdataset_shuffled(folder: Path) -> Epoch:
    """webdataset: tar files of raw images, shuffle buffer of 4,096, decoded by numpy."""
    import io
    import tarfile

    import webdataset

    where, plain = folder / "wds", np.load(folder / "plain.npy", mmap_mode="r")
    if not where.exists():
        where.mkdir()
        for shard in range(0, min(10000, len(plain)), 1024):
            with tarfile.open(where / f"{shard:06d}.tar", "w") as tar:
                for row in range(shard, min(shard + 1024, 10000, len(plain))):
                    body = plain[row].tobytes()
                    item = tarfile.TarInfo(f"{row:06d}.bin")
                    item.size = len(body)
                    tar.addfile(item, io.BytesIO(body))
    urls = [str(path) for path in sorted(where.glob("*.tar"))]

    def epoch() -> Iterator[int]:
        stream = webdataset.WebDataset(urls, shardshuffle=100).shuffle(4096)
        pending = []
        for item in stream:
            pending.append(np.frombuffer(item["bin"], np.uint16).reshape(SIZE, SIZE))
            if len(pending) == BATCH:
                yield len(np.stack(pending))
                pending = []

    return epoch


def lit(folder: Path) -> Epoch:
    """litdata: optimised chunks of raw images, StreamingDataset with shuffle."""
    import litdata

    where = folder / "lit"
    if not where.exists():
        litdata.optimize(
            fn=_lit_row, inputs=[(str(folder / "plain.npy"), row) for row in range(10000)], output_dir=str(where),
            chunk_bytes="32MB", num_workers=1,
        )  # fmt: skip
    held = litdata.StreamingDataset(str(where), shuffle=True)

    def epoch() -> Iterator[int]:
        pending = []
        for image in held:
            pending.append(image)
            if len(pending) == BATCH:
                yield len(np.stack(pending))
                pending = []

    return epoch


def _lit_row(item: tuple[str, int]) -> np.ndarray:
    return np.array(np.load(item[0], mmap_mode="r")[item[1]])


def cases(folder: Path) -> dict[str, tuple[str | None, Callable[[], Epoch]]]:
    """Name -> (library that must be there, maker of an epoch)."""
    return {
        "numpy memmap, random": (None, lambda: memmap(folder / "plain.npy")),
        "medgan materialised, random": (None, lambda: ours(folder / "raw.zarr", "random")),
        "medgan materialised, pooled": (None, lambda: ours(folder / "raw.zarr", "pooled")),
        "medgan lz4, chunks": (None, lambda: ours(folder / "lz4.zarr", "chunks")),
        "medgan lz4, pooled": (None, lambda: ours(folder / "lz4.zarr", "pooled")),
        "medgan zstd, chunks": (None, lambda: ours(folder / "zstd.zarr", "chunks")),
        "medgan zstd, pooled": (None, lambda: ours(folder / "zstd.zarr", "pooled")),
        "medgan zstd, pooled, 2 threads": (None, lambda: ours(folder / "zstd.zarr", "pooled", threads=2)),
        "zarr-python zstd, pooled": (None, lambda: zarr_python(folder / "zstd.zarr", pooled=True)),
        "zarr-python zstd, one at a time": (None, lambda: zarr_python(folder / "zstd.zarr", pooled=False)),
        "tensorstore zstd, pooled": ("tensorstore", lambda: tensorstore_pooled(folder / "zstd.zarr")),
        "litdata raw, shuffled": ("litdata", lambda: lit(folder)),
        "Hugging Face Arrow raw, shuffled": ("datasets", lambda: huggingface(folder)),
        "webdataset raw, shuffled": ("webdataset", lambda: webdataset_shuffled(folder)),
    }


def say(line: str) -> None:
    """One line of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(epoch: Epoch) -> tuple[float, float]:
    """Medians over repeats after one warm-up: CPU microseconds an image, images a second."""
    cost, rate = [], []
    for repeat in range(REPEATS + 1):
        cpu, wall, count = cpu_seconds(), time.perf_counter(), 0
        for rows in epoch():
            count += rows
        if repeat:
            cost.append((cpu_seconds() - cpu) / count * 1e6)
            rate.append(count / (time.perf_counter() - wall))
    return statistics.median(cost), statistics.median(rate)


def main() -> None:
    """Build once, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/medgan-bench-loader"))
    parser.add_argument("--bits", type=int, default=8, choices=range(8, 17), help="Bits of each stored value.")
    parser.add_argument("--noise", type=float, default=0.0, help="Standard deviation of added noise, in stored units.")
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    build(options.folder, options.images, options.bits, options.noise)
    raw = options.images * SIZE * SIZE * 2
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
    say(f"{machine}; {options.images:,} images of {options.bits} bits, {raw / 1e6:,.0f} MB raw")
    for name in ("zstd", "lz4"):
        size = sum(path.stat().st_size for path in (options.folder / f"{name}.zarr").rglob("*") if path.is_file())
        say(f"size {name}: {size / raw:.3f} of raw")
    base = None
    say(f"{'reader':36} {'CPU us/image':>13} {'x memmap':>9} {'images/s':>10}")
    for name, (library, make) in cases(options.folder).items():
        if options.only and not any(word in name for word in options.only):
            continue
        if library is not None and importlib.util.find_spec(library) is None:
            say(f"{name:36} {'not installed':>13}")
            continue
        cost, rate = measure(make())
        base = base or cost
        say(f"{name:36} {cost:13.1f} {cost / base:9.2f} {rate:10,.0f}")


if __name__ == "__main__":
    main()
