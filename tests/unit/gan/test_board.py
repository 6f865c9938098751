"""Every tick's numbers reach TensorBoard, once, also when a run goes on."""

from pathlib import Path

import pytest

from medgan.gan import board
from medgan.gan.fit import Tick

pytest.importorskip("tensorboard", reason="the extra `board` is not installed")


def tick(kimg: float, distance: float | None) -> Tick:
    losses = {"loss_d": 0.5, "loss_g": 0.7, "d_real": 1.0, "d_fake": -1.0, "spread": 0.9, "retreats": 0}
    return Tick(
        step=1, kimg=kimg, total_kimg=9, kimg_per_second=1, seconds=1, distance=distance, grid=Path("none"), **losses
    )


def test_a_run_that_goes_on_leaves_one_curve(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []
    first = board.beside(seen.append, tmp_path)
    for kimg, distance in ((1, None), (2, 8.0), (3, 7.0)):
        first(tick(kimg, distance))
    board.scalars(tmp_path)(tick(3, 5.0))  # killed after its third tick was told, before it was kept
    events = EventAccumulator(str(tmp_path / board.BOARD)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("distance")] == [(2000, 8.0), (3000, 5.0)]
    assert [e.step for e in events.Scalars("loss_d")] == [1000, 2000, 3000]
    assert [t.kimg for t in seen] == [1, 2, 3]
