from __future__ import annotations

import dataclasses
import os
import shutil
import signal

import numpy as np
import pandas as pd
import psutil
import pytest
import zarr

from medgan.cohort import synthetic
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import CohortSpec
from medgan.synthesis import blocks, plan
from medgan.synthesis.generate import cohort_handle, generate


def elsewhere(zones, path):
    """The same models and cohorts with an empty synthetic zone."""
    return dataclasses.replace(zones, synthetic=path)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_one_worker_and_two_give_the_same_bytes(trained, tmp_path):
    model, zones = trained
    spec = CohortSpec(images=2100, seed=5)
    made = [generate(model, spec, zones=elsewhere(zones, tmp_path / str(n)), workers=n) for n in (1, 2)]
    assert made[0] == made[1]
    one, two = (files_of(synthetic.folder(made[0].synthetic, zones=elsewhere(zones, tmp_path / n))) for n in "12")
    assert one == two
    assert len([name for name in one if "/c/" in name]) == 3


def test_a_finished_cohort_is_returned_not_made_again(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    first = generate(model, CohortSpec(images=32), zones=zones, scheduler=scheduler)
    shard = blocks.shard_path(synthetic.folder(first.synthetic, zones=zones) / "images.zarr", 0)
    before = shard.stat().st_mtime_ns
    assert generate(model, CohortSpec(images=32), zones=zones, scheduler=scheduler) == first
    assert shard.stat().st_mtime_ns == before


def test_a_resumed_run_redraws_only_what_is_missing_or_broken(trained, tmp_path, scheduler):
    model, zones = trained
    whole, half = elsewhere(zones, tmp_path / "whole"), elsewhere(zones, tmp_path / "half")
    spec = CohortSpec(images=3072, seed=1)
    made = generate(model, spec, zones=whole, scheduler=scheduler)
    home = synthetic.folder(made.synthetic, zones=half)
    staging = home.with_name(f".{home.name}.partial")
    shutil.copytree(synthetic.folder(made.synthetic, zones=whole), staging)
    for name in ("synthetic.json", "labels.parquet"):
        (staging / name).unlink()
    kept, broken, missing = (blocks.shard_path(staging / "images.zarr", start) for start in (0, 1024, 2048))
    broken.write_bytes(broken.read_bytes()[:-100])
    missing.unlink()
    stamp = kept.stat().st_mtime_ns
    seen = []
    assert generate(model, spec, zones=half, scheduler=scheduler, on_progress=lambda *done: seen.append(done)) == made
    assert blocks.shard_path(home / "images.zarr", 0).stat().st_mtime_ns == stamp
    assert seen[0] == (1024, 3072)
    assert seen[-1] == (3072, 3072)
    assert files_of(home) == files_of(synthetic.folder(made.synthetic, zones=whole))


def test_a_killed_worker_costs_its_block_only(trained, tmp_path):
    model, zones = trained
    spec = CohortSpec(images=6 * 1024, seed=2)
    calm, rough = elsewhere(zones, tmp_path / "calm"), elsewhere(zones, tmp_path / "rough")
    expected = generate(model, spec, zones=calm, workers=2)
    killed = []

    def kill_one(done, total):
        if done and not killed:
            workers = [
                child
                for child in psutil.Process().children(recursive=True)
                if "multiprocessing.spawn" in " ".join(child.cmdline())
                or "from multiprocessing" in " ".join(child.cmdline())
            ]
            killed.append(max(workers, key=lambda child: child.memory_info().rss).pid)
            os.kill(killed[0], signal.SIGKILL)

    made = generate(model, spec, zones=rough, workers=2, on_progress=kill_one)
    assert killed
    assert made == expected
    folders = [synthetic.folder(made.synthetic, zones=where) for where in (calm, rough)]
    assert files_of(folders[0]) == files_of(folders[1])


def test_the_cohort_opens_with_plain_zarr_and_pandas(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    made = generate(
        model, CohortSpec(images=100, class_shares={"normal": 0.3, "pneumonia": 0.7}), zones=zones, scheduler=scheduler
    )
    home = synthetic.folder(made.synthetic, zones=zones)
    group = zarr.open_consolidated(home / "images.zarr", mode="r", zarr_format=3)
    labels = pd.read_parquet(home / "labels.parquet")
    images = group["images"]
    assert images.shape == (100, 32, 32)
    assert images.dtype == np.uint16
    assert images.chunks == (16, 32, 32)
    assert images.shards == (1024, 32, 32)
    assert images.attrs["intensity_range"] == [0, 65535]
    assert labels["class"].value_counts().to_dict() == {"pneumonia": 70, "normal": 30} == made.class_counts
    assert not any("key" in column for column in labels.columns)


def test_classes_follow_the_training_cohort(trained, tmp_path, scheduler):
    from medgan.cohort import read

    model, zones = trained
    made = generate(model, CohortSpec(images=200), zones=elsewhere(zones, tmp_path), scheduler=scheduler)
    real = read.load(model.cohort, zones=zones).split("train")[2]["class"].value_counts(normalize=True)
    assert all(abs(made.class_counts[name] - 200 * share) < 1 for name, share in real.items())


def test_changed_pixels_are_not_read(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    made = generate(model, CohortSpec(images=32), zones=zones, scheduler=scheduler)
    array = synthetic.open_images(synthetic.folder(made.synthetic, zones=zones) / "images.zarr", mode="r+")
    array[0, 0, 0] = int(array[0, 0, 0]) ^ 1
    with pytest.raises(IntegrityError):
        synthetic.load(made, zones=zones)


def test_a_refused_request_writes_nothing(trained, tmp_path):
    model, zones = trained
    zones = elsewhere(zones, tmp_path / "synthetic")
    with pytest.raises(InvalidRequest):
        generate(model, CohortSpec(images=10, class_shares={"fracture": 1.0}), zones=zones, workers=1)
    assert not (tmp_path / "synthetic").exists()


def test_the_handle_names_model_and_specification(trained):
    model, _ = trained
    handles = {cohort_handle(model, CohortSpec(images=n, seed=seed)) for n in (10, 11) for seed in (0, 1)}
    assert len(handles) == 4


def test_the_plan_tells_the_cost(trained):
    model, zones = trained
    cost = plan.plan(model, CohortSpec(images=1_000_000), zones=zones, workers=2)
    assert cost.blocks == 977
    assert cost.raw_bytes == 2 * 32 * 32 * 1_000_000
    assert cost.block_bytes == 2 * 1024**2
    assert cost.seconds > 0
    assert "1,000,000 images in 977 blocks" in str(cost)
