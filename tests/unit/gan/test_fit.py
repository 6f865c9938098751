"""A run is decided by its configuration, survives a kill, and stops when it diverges."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medgan.errors import InvalidRequest, StoreUnavailable, TrainingDiverged
from medgan.gan import checkpoint, generator
from medgan.gan import fit as fitting
from medgan.gan.fit import fit
from medgan.gan.images import indices, read_plain
from medgan.gan.parallel import World
from medgan.gan.step import Players, Score, play
from tests.unit.gan.builders import small_config, small_set

TIMES = {"seconds", "kimg_per_second"}


def curve(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def weights(folder) -> bytes:
    return (folder / "generator.safetensors").read_bytes()


def test_same_config_gives_the_same_weights_bit_for_bit(tmp_path):
    for name in ("a", "b"):
        fit(small_set(), small_config(), tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    fit(small_set(), small_config(seed=4), tmp_path / "c")
    assert weights(tmp_path / "c") != weights(tmp_path / "a")


KILLED = """
import os, signal, sys
from pathlib import Path
from medgan.gan.fit import fit
from medgan.gan import step
from tests.unit.gan.builders import small_config, small_set
import medgan.gan.fit as fitting
played = [0]
def play(*args, **kw):
    played[0] += 1
    if played[0] == 6:  # in the middle of the second tick
        os.kill(os.getpid(), signal.SIGKILL)
    return step.play(*args)
fitting.play = play
fit(small_set(), small_config(), Path(sys.argv[1]))
"""


def test_run_killed_in_the_middle_goes_on_to_the_same_curve_and_weights(tmp_path):
    fit(small_set(), small_config(), tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(curve(tmp_path / "killed")) == 1
    with (tmp_path / "killed" / "train.jsonl").open("a") as file:
        file.write('{"step": 11, "loss_d"')  # what a kill during a write can leave
    fit(small_set(), small_config(), tmp_path / "killed")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize("most_bytes", [100, 4000], ids=["a picture or curve", "the weights"])
def test_a_full_disk_ends_a_run_in_a_sentence_and_the_next_goes_on(tmp_path, most_bytes):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_up(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))  # the system itself gives no more

    try:
        with pytest.raises(StoreUnavailable, match="run again") as told:
            fit(small_set(), small_config(), tmp_path / "full", on_tick=fills_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) not in str(told.value)
    assert not list((tmp_path / "full").rglob("*.partial"))
    fit(small_set(), small_config(), tmp_path / "full")
    fit(small_set(), small_config(), tmp_path / "whole")
    assert weights(tmp_path / "full") == weights(tmp_path / "whole")


def test_a_run_in_bf16_goes_on_bit_for_bit(tmp_path):
    config, images = small_config(precision="bf16"), small_set(48)
    unbroken, resumed = (Players.start(config, len(images.classes)) for _ in range(2))
    play(config, unbroken, images)
    checkpoint.save_state(tmp_path / "state", unbroken, seconds=0, config_sha256="0" * 64)
    checkpoint.load_state(tmp_path / "state", resumed, config_sha256="0" * 64)
    for players in (unbroken, resumed):
        play(config, players, images)
    for one, other in ((unbroken.generator, resumed.generator), (unbroken.discriminator, resumed.discriminator)):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_state_of_another_configuration_is_not_resumed(tmp_path):
    fit(small_set(), small_config(seed=5), tmp_path / "a")
    fit(small_set(), small_config(), tmp_path / "a")
    fit(small_set(), small_config(), tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_every_tick_tells_its_numbers_and_writes_a_picture(tmp_path):
    ticks = []
    fit(small_set(), small_config(), tmp_path, on_tick=ticks.append)
    assert [tick.step for tick in ticks] == [4, 8, 12]
    assert ticks[-1].kimg == ticks[-1].total_kimg == 0.192
    assert all(tick.grid.read_bytes().startswith(b"\x89PNG") for tick in ticks)
    assert all(tick.kimg_per_second > 0 and tick.retreats == 0 for tick in ticks)


def by_contrast(training_set):
    """A judge for tests: how far the mean brightness lies from the real one."""
    real = training_set.pixels.mean()
    return lambda made: abs(float(made.mean() - real))


def scripted(*distances):
    told = iter(distances)
    return lambda _training_set: lambda _made: next(told)


PATIENT = {"total_kimg": 0.64, "patience_kimg": 0.128}


def test_a_plateau_ends_the_run_and_the_best_generator_is_kept(tmp_path):
    ticks = []
    trained = fit(
        small_set(), small_config(**PATIENT), tmp_path, on_tick=ticks.append, watch=scripted(3.0, 1.0, 2.0, 1.5)
    )
    assert [tick.distance for tick in ticks] == [3.0, 1.0, 2.0, 1.5]
    assert trained.kimg == ticks[1].kimg == 0.128
    kept, last = (load_file(tmp_path / name) for name in ("generator.safetensors", "state.safetensors"))
    assert all(torch.equal(tensor, load_file(tmp_path / "best.safetensors")[name]) for name, tensor in kept.items())
    assert any(not torch.equal(tensor, last[f"ema/{name}"]) for name, tensor in kept.items())
    again = fit(small_set(), small_config(**PATIENT), tmp_path, watch=lambda _: pytest.fail("it had ended"))
    assert again.kimg == trained.kimg


def test_a_judged_run_that_broke_off_ends_where_an_unbroken_one_does(tmp_path):
    fit(small_set(), small_config(**PATIENT), tmp_path / "whole", watch=by_contrast)
    for _ in range(3):  # at each of the first ticks once more
        with pytest.raises(KeyboardInterrupt):
            fit(small_set(), small_config(**PATIENT), tmp_path / "broken", on_tick=interrupt, watch=by_contrast)
    fit(small_set(), small_config(**PATIENT), tmp_path / "broken", watch=by_contrast)
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def interrupt(_tick):
    raise KeyboardInterrupt


def test_a_judge_changes_nothing_but_when_a_run_ends(tmp_path):
    fit(small_set(), small_config(), tmp_path / "alone")
    fit(small_set(), small_config(), tmp_path / "judged", watch=by_contrast)
    assert weights(tmp_path / "alone") == weights(tmp_path / "judged")
    assert small_config(patience_kimg=0.0).digest == small_config().digest != small_config(patience_kimg=0.1).digest


def test_patience_without_a_judge_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="who judges"):
        fit(small_set(), small_config(**PATIENT), tmp_path)


def test_non_finite_loss_rolls_back_to_the_last_average_at_half_the_step(tmp_path, monkeypatch):
    seen = []

    def once_broken(config, players, images, world):
        seen.append((players.step, players.retreats, players.optimiser_g.param_groups[0]["lr"]))
        if len(seen) == 7:
            average, now = players.average.state_dict(), players.generator.state_dict()
            assert any(not torch.equal(average[name], now[name]) for name in now)
            return Score(float("nan"), 0.0, 0.0, 0.0)
        if len(seen) == 8:  # the round after the roll-back starts from the average of the last tick
            average, now = players.average.state_dict(), players.generator.state_dict()
            assert all(torch.equal(average[name], now[name]) for name in now)
        return play(config, players, images, world)

    monkeypatch.setattr(fitting, "play", once_broken)
    ticks = []
    fit(small_set(), small_config(learning_rate_end=None), tmp_path, on_tick=ticks.append)
    assert [(step, retreats) for step, retreats, _ in seen[5:9]] == [(5, 0), (6, 0), (4, 1), (5, 1)]
    assert seen[-1][2] == seen[5][2] / 2 == 0.0005
    assert [tick.retreats for tick in ticks] == [0, 1, 1]
    assert len(curve(tmp_path)) == 3


def test_training_that_stays_broken_stops_with_an_error(tmp_path):
    poisoned = replace(small_config(), learning_rate=1e30, learning_rate_end=None, retreats=2)
    with pytest.raises(TrainingDiverged, match="3 times"):
        fit(small_set(), poisoned, tmp_path)
    assert not (tmp_path / "generator.safetensors").exists()


def test_a_collapse_rolls_back_and_stops_the_run_when_it_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_WATCH_FROM_KIMG", 0.1)  # from the second tick on
    monkeypatch.setattr(fitting, "relative_spread", lambda _made, _images: 0.05)
    with pytest.raises(TrainingDiverged, match="all alike 3 times"):
        fit(small_set(), small_config(retreats=2), tmp_path)
    assert [line["step"] for line in curve(tmp_path)] == [4]


def test_spread_is_one_for_real_images_and_none_for_one_image_repeated():
    images = small_set()
    rows = np.linspace(0, 95, 64).round().astype(int)
    assert fitting.relative_spread(images.pixels[rows], images) == pytest.approx(1.0)
    assert fitting.relative_spread(images.pixels[:1].repeat(64, axis=0), images) == 0


def test_every_loss_trains_without_breaking(tmp_path):
    for loss in ("gan-minimax", "gan-ns", "wgan-clip", "wgan-gp", "hinge"):
        config = small_config(
            loss=loss, gamma=0.0, total_kimg=0.064, norm_g="batch", spectral_norm=loss == "hinge",
            clip=0.01 if loss == "wgan-clip" else 0.0, critic_steps=2 if loss.startswith("wgan") else 1,
            optimiser="rmsprop" if loss == "wgan-clip" else "adam",
        )  # fmt: skip
        ticks = []
        fit(small_set(), config, tmp_path / loss, on_tick=ticks.append)
        assert np.isfinite([ticks[-1].loss_d, ticks[-1].loss_g]).all()


def test_wrong_size_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InvalidRequest, match="64 px"):
        fit(small_set(), small_config(size_px=64, widths=(8, 8, 8, 8)), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    shown = np.concatenate([indices(step, 16, 48, seed=1) for step in range(6)])
    assert sorted(shown[:48]) == sorted(shown[48:]) == list(range(48))
    assert list(shown[:48]) != list(shown[48:])
    assert list(indices(2, 16, 40, seed=1)) == list(np.concatenate([indices(2, 16, 40, seed=1)]))


def test_plain_npz_trains_with_numpy_torch_and_safetensors_alone(tmp_path):
    small = small_set(32)
    np.savez(tmp_path / "set.npz", images=small.pixels, labels=small.class_index)
    program = (
        "import sys\n"
        "for name in ('pydantic', 'zarr', 'pandas', 'sklearn', 'scipy', 'dask', 'icechunk', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "from medgan.gan.__main__ import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "set.npz"), "--out", str(tmp_path / "run"), "--kimg", "0.064"],
        check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kimg/s" in done.stdout
    assert (tmp_path / "run" / "generator.safetensors").is_file()


def test_plain_file_with_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", pictures=np.zeros((2, 32, 32), np.uint8))
    with pytest.raises(InvalidRequest, match="array `images`"):
        read_plain(tmp_path / "set.npz")
    np.save(tmp_path / "set.npy", np.zeros((2, 32, 32)))
    with pytest.raises(InvalidRequest, match="integers"):
        read_plain(tmp_path / "set.npy")


SHARED = """
import sys
from pathlib import Path
from medgan.gan.fit import fit
from medgan.gan.parallel import joined
from tests.unit.gan.builders import small_config, small_set
with joined(init_method=f"file://{sys.argv[2]}") as world:
    fit(small_set(), small_config(augment_p=0.5, norm_g="none", spectrum_weight=1.0), Path(sys.argv[1]), world=world)
"""


def test_two_processes_give_the_weights_of_one_with_the_same_global_batch(tmp_path):
    fit(small_set(), small_config(augment_p=0.5, norm_g="none", spectrum_weight=1.0), tmp_path / "one")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(tmp_path / "two"), str(tmp_path / "meet")],
            env={**environment, "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    one, two = (load_file(tmp_path / name / "generator.safetensors") for name in ("one", "two"))
    fresh = generator.build(small_config(augment_p=0.5, norm_g="none"), 2).state_dict()
    for name in one:
        apart = (one[name] - two[name]).norm()
        moved = (one[name] - fresh[name]).norm()
        assert apart <= 1e-2 * moved + 1e-6, name  # Adam's first steps magnify the rounding of sums
    assert [line["step"] for line in curve(tmp_path / "two")] == [4, 8, 12]


@pytest.mark.parametrize("changes", [{"sketch": 1, "sketch_weight": 10.0}, {"loss": "wgan-gp"}])
def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch(tmp_path, changes):
    config = small_config(augment_p=0.5, norm_g="none", spectrum_weight=1.0, total_kimg=0.064, **changes)
    whole, parts = (fit_weights(replace(config, accumulate=n), tmp_path / str(n)) for n in (1, 4))
    fresh = generator.build(config, 2).state_dict()
    for name in whole:
        apart, moved = (whole[name] - parts[name]).norm(), (whole[name] - fresh[name]).norm()
        assert apart <= 1e-2 * moved + 1e-6, name  # Adam's first steps magnify the rounding of sums
    with pytest.raises(InvalidRequest, match="equal parts"):
        replace(config, accumulate=3)
    with pytest.raises(InvalidRequest, match="batch norm"):
        replace(config, accumulate=2, norm_g="batch")


def fit_weights(config, folder) -> dict[str, torch.Tensor]:
    fit(small_set(), config, folder)
    return load_file(folder / "generator.safetensors")


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="3 processes"):
        fit(small_set(), small_config(), tmp_path, world=World(0, 3))
    with pytest.raises(InvalidRequest, match="batch norm"):
        fit(small_set(), small_config(norm_g="batch"), tmp_path, world=World(0, 2))


def test_a_gpu_recipe_without_a_gpu_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InvalidRequest, match="_cpu"):
        fit(small_set(), small_config(device="cuda"), tmp_path)
