"""Other people's loaders over the same images: each a function that gives an epoch of batches of 64.

They live in an environment of their own that `python()` makes once: their packages without what they would drag
along, on top of the project's own. Each keeps its own copy of the images, raw, in its own format; batches are
stacked by numpy, so that every row of the table ends at the same place.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import subprocess
import sys
import sysconfig
import tarfile
import types
import venv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

SIZE, BATCH, POOL = 128, 64, 4096
Epoch = Callable[[], Iterator[int]]
PACKAGES = (
    "tensorstore", "ml-dtypes", "litdata", "lightning-utilities", "webdataset", "braceexpand",
    "mosaicml-streaming", "brotli", "zstd", "python-snappy", "cramjam", "catalogue",
)  # fmt: skip


def python(folder: Path) -> Path:
    """An interpreter that has our packages and theirs; ours alone where they cannot be installed."""
    home = folder / "libraries"
    program = home / "bin" / "python"
    if not (home / "done").exists():
        venv.create(home, with_pip=True, clear=True)
        ours = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "ours.pth"
        ours.write_text(sysconfig.get_path("purelib") + "\n")
        install = [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *PACKAGES]
        if subprocess.run(install, check=False).returncode:
            return Path(sys.executable)
        (home / "done").touch()
    return program


def stacked(images: Iterable[np.ndarray]) -> Iterator[int]:
    """Batches of 64 from single images."""
    pending = []
    for image in images:
        pending.append(image)
        if len(pending) == BATCH:
            yield len(np.stack(pending))
            pending = []
    if pending:
        yield len(np.stack(pending))


def plain(folder: Path) -> np.ndarray:
    """All images, (N, 128, 128) uint16, mapped."""
    return np.load(folder / "plain.npy", mmap_mode="r")


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

    where = folder / "hf"
    if not where.exists():
        datasets.disable_progress_bars()
        features = datasets.Features({"image": datasets.Array2D((SIZE, SIZE), "uint16")})
        rows = lambda: ({"image": image} for image in plain(folder))  # noqa: E731
        made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "hf-cache"))
        made.save_to_disk(str(where))
    held = datasets.load_from_disk(str(where)).with_format("numpy")

    def epoch() -> Iterator[int]:
        order = np.random.default_rng(0).permutation(len(held))
        for start in range(0, len(order), BATCH):
            yield len(held[order[start : start + BATCH]]["image"])

    return epoch


def webdataset_shuffled(folder: Path) -> Epoch:
    """webdataset: tar files of raw images, shards shuffled, then a buffer of 4,096, decoded by numpy."""
    import webdataset

    where, images = folder / "wds", plain(folder)
    if not where.exists():
        where.mkdir()
        for shard in range(0, len(images), 1024):
            with tarfile.open(where / f"{shard:06d}.tar", "w") as tar:
                for row in range(shard, min(shard + 1024, len(images))):
                    body = images[row].tobytes()
                    item = tarfile.TarInfo(f"{row:06d}.bin")
                    item.size = len(body)
                    tar.addfile(item, io.BytesIO(body))
    urls = [str(path) for path in sorted(where.glob("*.tar"))]

    def epoch() -> Iterator[int]:
        stream = webdataset.WebDataset(urls, shardshuffle=100).shuffle(POOL)
        yield from stacked(np.frombuffer(item["bin"], np.uint16).reshape(SIZE, SIZE) for item in stream)

    return epoch


def lit(folder: Path) -> Epoch:
    """litdata: optimised chunks of raw images, its fastest form, StreamingDataset with shuffle."""
    import litdata

    where = folder / "lit"
    if not where.exists():
        rows = [(str(folder / "plain.npy"), row) for row in range(len(plain(folder)))]
        litdata.optimize(fn=_lit_row, inputs=rows, output_dir=str(where), chunk_bytes="32MB", num_workers=1)
    held = litdata.StreamingDataset(str(where), shuffle=True)
    return lambda: stacked(held)


def _lit_row(item: tuple[str, int]) -> np.ndarray:
    return np.array(np.load(item[0], mmap_mode="r")[item[1]])


def mosaic(folder: Path) -> Epoch:
    """mosaicml-streaming: MDS shards of raw images, StreamingDataset with shuffle (py1e, its default)."""
    for name in ("streaming", "streaming.base"):  # their __init__ wants torchvision and transformers
        spec = importlib.util.find_spec(name)
        bare = types.ModuleType(name)
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = bare
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    logging.getLogger("streaming").setLevel(logging.ERROR)
    from streaming.base.dataset import StreamingDataset
    from streaming.base.format import MDSWriter

    where = folder / "mds"
    if not where.exists():
        with MDSWriter(out=str(where), columns={"image": f"ndarray:uint16:{SIZE},{SIZE}"}, size_limit="32mb") as out:
            for image in plain(folder):
                out.write({"image": np.array(image)})
    held = StreamingDataset(local=str(where), shuffle=True, batch_size=BATCH)
    return lambda: stacked(item["image"] for item in held)
