"""Loaders beside each other on one array of 128 x 128 uint16: CPU microseconds an image, images a second, bytes.

    python -m tests.bench.loader_speed [--images 50000] [--folder /tmp/medgan-bench] [--only NAME ...]

The images are the carried radiographs, enlarged to 128 px (bicubic), with the 8 bits of their source in uint16. No
lossless codec packs more bits as well: the table of sizes says what the same images cost with 12 and 16 bits and
with a detector's noise (docs/adr/0022, 0025). `lz4` is what a release is packed with, `zstd` what older ones are.
Everything runs in one process with one thread unless the name says otherwise; CPU time is that of all threads. The
other libraries get an environment of their own below the folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from medgan.client import loader, shards
from medgan.release.images import BLOCK_BYTES, CODEC, LEVEL
from tests.bench import _loader_peers as peers
from tests.builders.release import SAMPLES

SIZE, BATCH, REPEATS = 128, 64, 3
LONG_SECONDS = 8.0
"""An epoch that takes longer is not repeated: how slow it is, is known."""
PACKINGS = {"lz4": CODEC, "zstd": "zstd"}
"""Folder of the array -> blosc's compressor."""
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
        name: [
            BloscCodec(cname=kind, clevel=LEVEL, shuffle="shuffle", typesize=2, blocksize=BLOCK_BYTES),
            Crc32cCodec(),
        ]
        for name, kind in PACKINGS.items()
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


def packed(kind: str, bits: int, noise: float) -> float:
    """Share of raw that 256 images of so many bits take in chunks like a release's."""
    from numcodecs.blosc import SHUFFLE, Blosc

    codec = Blosc(kind, LEVEL, SHUFFLE, blocksize=BLOCK_BYTES)
    block = next(images(256, bits, noise))
    return sum(len(codec.encode(block[at : at + 16])) + 4 for at in range(0, len(block), 16)) / block.nbytes


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
        "medgan lz4, pooled, 2 threads": (None, lambda: ours(folder / "lz4.zarr", "pooled", threads=2)),
        "zarr-python lz4, pooled": (None, lambda: peers.zarr_python(folder / "lz4.zarr", pooled=True)),
        "zarr-python lz4, one at a time": (None, lambda: peers.zarr_python(folder / "lz4.zarr", pooled=False)),
        "tensorstore lz4, pooled": ("tensorstore", lambda: peers.tensorstore_pooled(folder / "lz4.zarr")),
        "litdata raw, shuffled": ("litdata", lambda: peers.lit(folder)),
        "Hugging Face Arrow raw, shuffled": ("datasets", lambda: peers.huggingface(folder)),
        "webdataset raw, shuffled": ("webdataset", lambda: peers.webdataset_shuffled(folder)),
        "mosaicml-streaming raw, shuffled": ("streaming", lambda: peers.mosaic(folder)),
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
        wall = time.perf_counter() - wall
        if repeat:
            cost.append((cpu_seconds() - cpu) / count * 1e6)
            rate.append(count / wall)
            if wall > LONG_SECONDS:
                break
    return statistics.median(cost), statistics.median(rate)


def main() -> None:
    """Build once, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/medgan-bench-loader"))
    parser.add_argument("--without-peers", action="store_true", help="Only what is installed here.")
    parser.add_argument("--bits", type=int, default=8, choices=range(8, 17), help="Bits of each stored value.")
    parser.add_argument("--noise", type=float, default=0.0, help="Standard deviation of added noise, in stored units.")
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    build(options.folder, options.images, options.bits, options.noise)
    if not options.without_peers and (other := peers.python(options.folder)) != Path(sys.executable):
        again = [other, "-m", "tests.bench.loader_speed", *sys.argv[1:], "--without-peers"]
        sys.exit(subprocess.run(again, check=False).returncode)
    raw = options.images * SIZE * SIZE * 2
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
    say(f"{machine}; {options.images:,} images of {options.bits} bits, {raw / 1e6:,.0f} MB raw")
    for name in PACKINGS:
        size = sum(path.stat().st_size for path in (options.folder / f"{name}.zarr").rglob("*") if path.is_file())
        say(f"size {name}: {size / raw:.3f} of raw")
    for bits, noise in ((8, 0.0), (12, 0.0), (12, 2.0), (12, 8.0), (16, 0.0)):
        sizes = ", ".join(f"{name} {packed(kind, bits, noise):.3f}" for name, kind in PACKINGS.items())
        say(f"size of {bits:2} bits, noise {noise:.0f}: {sizes} of raw (256 images)")
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
