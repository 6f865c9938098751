"""Masks of a synthetic cohort: drawn with the block they belong to, whole or not at all, the same wherever it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgan.cohort import read, synthetic
from medgan.gan import outliner
from medgan.records import CohortSpec
from medgan.settings import Zones
from medgan.synthesis import blocks, plan
from medgan.synthesis.dispatch import Run
from medgan.synthesis.generate import cohort_handle, generate
from medgan.synthesis.redraw import redraw
from tests.builders.cohort import STRUCTURES
from tests.builders.model import brief_outliner

SPEC = CohortSpec(images=70, seed=5)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A briefly trained model whose cohort has masks, and the workspace it lies in."""
    zones = Zones.under(tmp_path_factory.mktemp("masked"))
    return brief_outliner(zones)[0], zones


def elsewhere(zones, path):
    return dataclasses.replace(zones, synthetic=path)


def mask_shards(home):
    target = home / synthetic.IMAGES
    return [blocks.masks_shard(target, shard) for _, shard, _ in blocks.parts(target)]


def test_every_image_has_the_mask_that_the_outliner_draws_of_it(masked, tmp_path, scheduler):
    model, zones = masked
    zones = elsewhere(zones, tmp_path)
    made = generate(model, SPEC, zones=zones, scheduler=scheduler)
    loaded = synthetic.load(made, zones=zones)
    assert made.structures == STRUCTURES
    attrs = read.load(made.cohort, zones=zones).attrs
    assert np.array_equal(loaded.masks, outliner.outlined(outliner.of_model(model, zones), loaded.images, attrs))
    assert not list(synthetic.folder(made.synthetic, zones=zones).rglob("*.partial"))


def test_block_sizes_and_workers_change_no_mask(masked, tmp_path, scheduler):
    model, zones = masked
    sizes = [Run(scheduler=scheduler, block_images=size) for size in (16, 48, 1024)]
    made = [generate(model, SPEC, zones=elsewhere(zones, tmp_path / str(n)), run=run) for n, run in enumerate(sizes)]
    assert made[0] == made[1] == made[2]


def test_a_killed_run_keeps_whole_blocks_and_draws_a_torn_mask_again(masked, tmp_path, scheduler):
    model, zones = masked
    zones, run = elsewhere(zones, tmp_path), Run(scheduler=scheduler, block_images=32)
    whole = generate(model, SPEC, zones=zones, run=run)
    home = synthetic.folder(whole.synthetic, zones=zones)
    home.rename(home.with_name(f".{home.name}.partial"))
    half_made = home.with_name(f".{home.name}.partial")
    (half_made / synthetic.RECORD).unlink()
    (half_made / synthetic.LABELS).rename(half_made / "asked.parquet")
    first, second, third = mask_shards(half_made)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    stands = third.stat().st_mtime_ns
    assert generate(model, SPEC, zones=zones, run=run) == whole
    assert mask_shards(home)[2].stat().st_mtime_ns == stands
    assert synthetic.load(whole, zones=zones).masks is not None


def test_rows_drawn_again_are_outlined_again_and_other_masks_stay(masked, tmp_path, scheduler):
    model, zones = masked
    zones, run = elsewhere(zones, tmp_path), Run(scheduler=scheduler, block_images=32)
    first = generate(model, SPEC, zones=zones, run=run)
    second = redraw(first, [3, 40], 1, zones=zones, run=run)
    before, after = (synthetic.load(made, zones=zones) for made in (first, second))
    same = (before.masks == after.masks).all((1, 2))
    assert np.flatnonzero(~same).tolist() in ([3, 40], [3], [40])
    assert second.structures == STRUCTURES
    assert second.masks_sha256 == synthetic.pixel_digest(after.masks)


def test_a_model_without_masks_keeps_its_handles_and_its_plan_counts_no_mask(masked):
    model, zones = masked
    plain = model.model_copy(update={"outliner": None})
    assert cohort_handle(plain, SPEC) != cohort_handle(model, SPEC)
    assert (plan.plan(model, SPEC, zones=zones).raw_bytes, plan.plan(plain, SPEC, zones=zones).raw_bytes) == (
        70 * 32 * 32 * 3,
        70 * 32 * 32 * 2,
    )
