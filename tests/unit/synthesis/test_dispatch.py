from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgan.errors import InvalidRequest
from medgan.records import CohortSpec
from medgan.synthesis import blocks, dispatch, generate


@pytest.mark.parametrize(
    ("block_seconds", "left", "workers", "length"),
    [(0.25, 1000, 2, 20), (0.0, 1000, 2, 250), (0.25, 40, 2, 10), (0.25, 3, 2, 1), (60.0, 1000, 2, 1)],
)
def test_quick_blocks_share_a_task_and_workers_end_together(block_seconds, left, workers, length):
    assert dispatch.stretch_length(block_seconds, left, workers) == length


def test_every_block_is_drawn_once_in_far_fewer_tasks(trained, tmp_path, scheduler):
    model, zones = trained
    zones = dataclasses.replace(zones, synthetic=tmp_path)
    seen = []
    run = dispatch.Run(scheduler=scheduler, block_images=16, on_progress=lambda *done: seen.append(done))
    made = generate.generate(model, CohortSpec(images=150 * 16 + 5), zones=zones, run=run)
    assert made.images == 2405
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (2405, 2405)
    assert len(seen) - 1 < 151 / 3


def test_a_worker_of_another_version_draws_nothing(trained, tmp_path, scheduler, monkeypatch):
    model, zones = trained
    zones = dataclasses.replace(zones, synthetic=tmp_path)
    monkeypatch.setattr(blocks, "version", lambda: "ours")  # the scheduler's workers are other processes
    with pytest.raises(InvalidRequest, match="another version"):
        generate.generate(model, CohortSpec(images=16), zones=zones, run=dispatch.Run(scheduler=scheduler))


def test_a_stretch_goes_on_behind_the_shards_that_stand(trained, tmp_path):
    model, zones = trained
    target = tmp_path / "images.zarr"
    blocks.create_images(target, (64, 32, 32), {}, block_images=16)
    stretch = [
        blocks.Block(
            target=target,
            shard=shard,
            shard_rows=16,
            model=model,
            zones=zones,
            seed=3,
            precision="fp32",
            start=rows.start,
            ids=np.arange(rows.start, rows.stop),
            class_index=np.zeros(16, dtype=np.int64),
            conditions={},
            attempts=1,
            recognise=np.ones(16, dtype=np.bool_),
        )
        for rows, shard, _ in blocks.parts(target)
    ]
    first = blocks.write_stretch(stretch)
    shards = [block.shard for block in stretch]
    before = [path.stat().st_ino for path in shards]
    blocks.drawn_path(target, 16).unlink()  # nobody knows what it shows
    shards[2].write_bytes(shards[2].read_bytes()[:-9])
    shards[3].unlink()
    again = blocks.write_stretch(stretch)
    assert [(written.start, written.digests) for written in again] == [(w.start, w.digests) for w in first]
    assert shards[0].stat().st_ino == before[0]
    assert shards[1].stat().st_ino != before[1]
    assert all(path.is_file() for path in shards)
