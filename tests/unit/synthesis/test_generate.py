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
from medgan.gan import budget
from medgan.quality import classifier
from medgan.records import CohortSpec, Target
from medgan.synthesis import blocks, draws, plan, rows
from medgan.synthesis.dispatch import Run
from medgan.synthesis.generate import class_index_of, cohort_handle, generate
from medgan.synthesis.redraw import redraw


def elsewhere(zones, path):
    """The same models and cohorts with an empty synthetic zone."""
    return dataclasses.replace(zones, synthetic=path)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shards_of(home):
    return [shard for _, shard, _ in blocks.parts(home / synthetic.IMAGES)]


def test_one_worker_and_two_give_the_same_bytes(trained, tmp_path):
    model, zones = trained
    spec = CohortSpec(images=2100, seed=5)
    made = [generate(model, spec, zones=elsewhere(zones, tmp_path / str(n)), workers=n) for n in (1, 2)]
    assert made[0] == made[1]
    one, two = (files_of(synthetic.folder(made[0].synthetic, zones=elsewhere(zones, tmp_path / n))) for n in "12")
    assert one == two
    assert len([name for name in one if "/c/" in name]) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_three_block_sizes_give_the_same_images_and_labels(trained, tmp_path, scheduler, precision):
    model, zones = trained
    spec = CohortSpec(images=96, seed=5, precision=precision, redraw_attempts=2)
    made = [
        generate(model, spec, zones=elsewhere(zones, tmp_path / str(n)), run=Run(scheduler=scheduler, block_images=n))
        for n in (16, 48, 1024)
    ]
    assert made[0] == made[1] == made[2]


def test_a_block_of_no_whole_chunks_is_refused():
    with pytest.raises(InvalidRequest, match="multiple of 16"):
        Run(block_images=100)


def test_a_finished_cohort_is_returned_not_made_again(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    first = generate(model, CohortSpec(images=32), zones=zones, scheduler=scheduler)
    shard = shards_of(synthetic.folder(first.synthetic, zones=zones))[0]
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
    (staging / "synthetic.json").unlink()
    (staging / "labels.parquet").rename(staging / "asked.parquet")
    kept, broken, missing = shards_of(staging)
    broken.write_bytes(broken.read_bytes()[:-100])
    missing.unlink()
    stamp = kept.stat().st_mtime_ns
    seen = []
    assert generate(model, spec, zones=half, scheduler=scheduler, on_progress=lambda *done: seen.append(done)) == made
    assert shards_of(home)[0].stat().st_mtime_ns == stamp
    assert seen[0] == (1024, 3072)
    assert seen[-1] == (3072, 3072)
    assert files_of(home) == files_of(synthetic.folder(made.synthetic, zones=whole))


def test_a_killed_worker_costs_its_block_only(trained, tmp_path):
    model, zones = trained
    spec = CohortSpec(images=3 * 1024, seed=2)
    calm, rough = elsewhere(zones, tmp_path / "calm"), elsewhere(zones, tmp_path / "rough")
    expected = generate(model, spec, zones=calm, run=Run(workers=2, block_images=32))
    home = synthetic.folder(expected.synthetic, zones=rough)
    stood = {}

    def kill_one(done, total):
        if done >= total // 4 and not stood:
            array = home.with_name(f".{home.name}.partial") / "images.zarr"
            stood.update((path.relative_to(array), path.stat().st_ino) for path in array.glob("images/c/*/0/0"))
            workers = [child for child in psutil.Process().children(recursive=True) if is_worker(child)]
            os.kill(max(workers, key=lambda child: child.memory_info().rss).pid, signal.SIGKILL)

    made = generate(model, spec, zones=rough, run=Run(workers=2, block_images=32, on_progress=kill_one))
    assert len(stood) >= 96 // 4
    assert all((home / "images.zarr" / name).stat().st_ino == inode for name, inode in stood.items())
    assert made == expected
    assert files_of(home) == files_of(synthetic.folder(made.synthetic, zones=calm))


def is_worker(process):
    return "from multiprocessing" in " ".join(process.cmdline()) or "multiprocessing.spawn" in " ".join(
        process.cmdline()
    )


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


def test_the_plan_tells_cost_and_content(trained):
    model, zones = trained
    wanted = (Target(of=("sex",), shares={"F": 0.6}),)
    cost = plan.plan(model, CohortSpec(images=1_000_000, targets=wanted), zones=zones, workers=2)
    assert cost.blocks == 977
    assert cost.raw_bytes == 2 * 32 * 32 * 1_000_000
    assert cost.block_bytes == 2 * 1024**2
    assert 0 < cost.stored_bytes <= 1.1 * cost.raw_bytes
    assert cost.seconds > 0
    assert cost.marginals["sex"]["F"] == 600_000
    assert "1,000,000 images in 977 blocks" in str(cost)
    assert any("F 600,000" in line for line in cost.lines())


def test_a_table_decided_otherwise_leaves_no_old_shard_behind(trained, tmp_path, scheduler, monkeypatch):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    spec = CohortSpec(images=64, seed=3)
    home = synthetic.folder(cohort_handle(model, spec), zones=zones)
    decided = rows.decide(model, spec, zones=zones)
    turned = dataclasses.replace(
        decided, table=decided.table.assign(**{"class": decided.table["class"][::-1].to_numpy()})
    )

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rows, "decide", lambda *_, **__: turned)
        with pytest.raises(KeyboardInterrupt):
            generate(model, spec, zones=zones, run=Run(scheduler=scheduler, block_images=16, on_progress=stop))
    assert not home.exists()
    made = generate(model, spec, zones=zones, scheduler=scheduler)
    assert made == generate(model, spec, zones=elsewhere(zones, tmp_path / "calm"), scheduler=scheduler)


def test_an_interrupted_run_goes_on_where_it_stopped(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    spec = CohortSpec(images=160, seed=4, redraw_attempts=1)
    seen = []

    def stop(done, total):
        if done >= 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, spec, zones=zones, run=Run(scheduler=scheduler, block_images=16, on_progress=stop))
    run = Run(scheduler=scheduler, block_images=16, on_progress=lambda *done: seen.append(done))
    made = generate(model, spec, zones=zones, run=run)
    assert seen[0][0] >= 80
    assert made == generate(model, spec, zones=elsewhere(zones, tmp_path / "calm"), scheduler=scheduler)
    left = {path.name for path in synthetic.folder(made.synthetic, zones=zones).iterdir()}
    assert left == {"images.zarr", "labels.parquet", "synthetic.json"}


def test_rows_are_drawn_again_and_nothing_else_changes(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    run = Run(scheduler=scheduler, block_images=16)
    first = generate(model, CohortSpec(images=96), zones=zones, run=run)
    second = redraw(first, [3, 40, 41], 1, zones=zones, run=run)
    assert second.synthetic != first.synthetic
    assert (second.redrawn, second.redrawn_from) == (3, first.synthetic)
    before, after = (synthetic.load(made, zones=zones) for made in (first, second))
    changed = np.flatnonzero((before.images != after.images).any((1, 2)))
    assert changed.tolist() == [3, 40, 41]
    assert after.labels.drop(columns="id").equals(before.labels.drop(columns="id"))
    assert after.labels["id"].nunique() == 96
    assert redraw(first, [41, 3, 40, 3], 1, zones=zones, run=run) == second
    other = elsewhere(zones, tmp_path / "other")
    larger = Run(scheduler=scheduler, block_images=48)
    assert generate(model, CohortSpec(images=96), zones=other, run=larger) == first
    assert redraw(first, [3, 40, 41], 1, zones=other, run=larger) == second
    third = redraw(second, [3], 2, zones=zones, run=run)
    assert (third.redrawn, third.redrawn_from) == (3, second.synthetic)
    assert not np.array_equal(synthetic.load(third, zones=zones).images[3], after.images[3])


@pytest.mark.parametrize(
    ("chosen", "attempt"), [([], 1), ([96], 1), ([-1], 1), ([0], 0), ([0], draws.MOST_ATTEMPTS + 1)]
)
def test_what_cannot_be_drawn_again_is_refused(trained, tmp_path, scheduler, chosen, attempt):
    model, zones = trained
    made = generate(model, CohortSpec(images=96), zones=elsewhere(zones, tmp_path), scheduler=scheduler)
    with pytest.raises(InvalidRequest):
        redraw(made, chosen, attempt, zones=elsewhere(zones, tmp_path))


def test_the_record_tells_how_often_the_classifier_sees_the_class_asked_for(trained, tmp_path, scheduler):
    model, zones = trained
    zones = elsewhere(zones, tmp_path)
    made = generate(model, CohortSpec(images=256, redraw_attempts=2, seed=1), zones=zones, scheduler=scheduler)
    assert made.redrawn > 0  # the generator was trained for a moment: its images show no class
    loaded = synthetic.load(made, zones=zones)
    assert (loaded.labels["id"] >= draws.STRIDE).sum() == made.redrawn
    assert loaded.labels["id"].nunique() == 256
    judge = classifier.of_model(model, zones)
    seen = judge.sees(loaded.images, loaded.attrs, loaded.labels["id"].to_numpy())
    assert made.fidelity is not None
    assert made.fidelity.synthetic == pytest.approx(np.mean(seen == class_index_of(loaded.labels, model)), abs=1e-6)
    assert made.fidelity.real > 0.8


def test_a_resource_that_no_worker_has_is_refused_at_once(trained, tmp_path, scheduler):
    model, zones = trained
    with pytest.raises(InvalidRequest, match="none of the 2 workers declares GPU=1"):
        generate(
            model,
            CohortSpec(images=16),
            zones=elsewhere(zones, tmp_path),
            run=Run(scheduler=scheduler, resources={"GPU": 1}),
        )


def test_a_site_that_has_too_few_patients_and_an_unknown_cohort_are_not_followed(trained, tmp_path):
    model, zones = trained
    for like in ("site:north", "co-" + "0" * 32):
        with pytest.raises(InvalidRequest):
            generate(model, CohortSpec(images=16, like=like), zones=elsewhere(zones, tmp_path), workers=1)
    assert not any(tmp_path.iterdir())


def test_a_private_table_says_what_it_cost_and_is_drawn_once(trained, tmp_path, scheduler):
    model, zones = trained
    made = [
        generate(
            model,
            CohortSpec(images=64, attribute_epsilon=4.0),
            zones=elsewhere(zones, tmp_path / name),
            scheduler=scheduler,
        )
        for name in "ab"
    ]
    assert made[0] == made[1]
    assert made[0].attribute_privacy is not None
    assert made[0].attribute_privacy.epsilon == 4.0
    spent = budget.spent(
        model.collection_snapshot.partition("@")[0], delta=made[0].attribute_privacy.delta, zones=zones
    )
    assert spent.tables == 1  # entered once in the collection's budget, however often it is drawn
    assert spent.epsilon == pytest.approx(4.0, abs=0.05)
    secret = zones.pseudonymised / "models" / model.model / "attribute-noise.key"
    assert secret.stat().st_mode & 0o077 == 0
