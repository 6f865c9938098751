from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medgan.errors import InvalidRequest, PrivacyRefused, TrainingDiverged
from medgan.gan import budget, private, recipes
from medgan.gan.accountant import Ledger
from medgan.gan.config import DP, TrainConfig
from medgan.gan.fit import Private, Run, fit
from medgan.gan.parallel import ALONE
from medgan.gan.train import train
from medgan.records import PrivacyTarget, TrainRequest, ValidatedCohort
from medgan.settings import Zones
from tests.builders.cohort import prepared_cohort
from tests.unit.gan.builders import small_config, small_set

PATIENTS = np.repeat(np.arange(48), 2).astype(object)


def private_config(**changes) -> TrainConfig:
    config = recipes.private(small_config(widths=(16, 8, 8)), DP(epsilon=8.0, delta=1e-3))
    return replace(config, **({"batch": 8, "total_kimg": 0.096, "tick_kimg": 0.032} | changes))


def weights(folder):
    return load_file(folder / "generator.safetensors")


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_private_run_spends_what_it_reserved_and_no_more(tmp_path):
    reserved = []
    fit(
        small_set(),
        private_config(),
        tmp_path,
        private=Private(patients=PATIENTS, reserve=lambda *a: reserved.append(a)),
    )
    ((_, noise),) = reserved
    assert (noise.count, noise.rate) == (12, 8 / 48)
    assert 7.5 < Ledger([noise.steps]).epsilon(1e-3) <= 8.0
    assert not list(tmp_path.glob("*noise-key"))


def test_a_killed_run_repeats_its_own_noise_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    names = []
    given = Private(patients=PATIENTS, reserve=lambda name, _noise: names.append(name))
    play, count = private.Game.play, 0

    def dying(game, players):
        nonlocal count
        count += 1
        if count == 7:
            raise KilledError
        return play(game, players)

    monkeypatch.setattr(private.Game, "play", dying)
    with pytest.raises(KilledError):
        fit(small_set(), private_config(), tmp_path / "a", private=given)
    key = next((tmp_path / "a").glob("*noise-key")).read_bytes()
    resumed_from = (tmp_path / "a" / "state.safetensors").read_bytes()
    fit(small_set(), private_config(), tmp_path / "a", private=given)
    assert len(set(names)) == 1

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "state.safetensors").write_bytes(resumed_from)
    name = Run(images=small_set(), config=private_config(), folder=tmp_path, world=ALONE, on_tick=None, private=given)
    (tmp_path / "b" / f"{name.identity[:16]}{private.KEY}").write_bytes(key)
    fit(small_set(), private_config(), tmp_path / "b", private=given)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_two_runs_of_one_seed_have_different_noise(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        fit(small_set(), private_config(), folder, private=Private(patients=PATIENTS))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_noise_is_never_drawn_twice_for_other_images(tmp_path):
    run = {
        "config": private_config(),
        "folder": tmp_path,
        "world": ALONE,
        "on_tick": None,
        "private": Private(patients=PATIENTS),
    }
    first, other = Run(images=small_set(), **run), Run(images=small_set(), **run)
    assert first.identity == other.identity
    turned = small_set()
    turned = replace(turned, pixels=turned.pixels[:, ::-1].copy())
    assert Run(images=turned, **run).identity != first.identity


def test_a_private_run_never_rolls_back(tmp_path, monkeypatch):
    monkeypatch.setattr(private.Game, "_judge", lambda *_: torch.full((4,), float("nan")))
    with pytest.raises(TrainingDiverged, match="spent"):
        fit(small_set(), private_config(), tmp_path, private=Private(patients=PATIENTS))


def test_the_curve_tells_nothing_of_real_images(tmp_path):
    ticks = []
    fit(small_set(), private_config(), tmp_path, private=Private(patients=PATIENTS), on_tick=ticks.append)
    assert [(tick.d_real, tick.retreats) for tick in ticks] == [(0, 0)] * 3


def test_the_generator_waits_while_the_discriminator_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(private.Game, "_judge", lambda *_: torch.ones(4))  # no fake is told
    run = Run(
        images=small_set(),
        config=private_config(),
        folder=tmp_path,
        world=ALONE,
        on_tick=None,
        private=Private(patients=PATIENTS),
    )
    run.game = private.Game(private_config(), small_set(), PATIENTS, tmp_path, name="a" * 16)
    for _ in range(30):
        run.game.play(run.players)
    assert run.players.ladder.rung >= 1
    assert run.players.ladder.moves < 30


def test_patients_must_be_known(tmp_path):
    with pytest.raises(InvalidRequest, match="whose"):
        fit(small_set(), private_config(), tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"norm_d": "batch"},
        {"loss": "r3"},
        {"precision": "bf16"},
        {"augment_p": 0.3},
        {"patience_kimg": 20.0},
        {"conditions": ("sex",)},
    ],
)
def test_what_the_proof_does_not_cover_is_refused(wrong):
    with pytest.raises(InvalidRequest, match="privacy"):
        private_config(**wrong)


def test_a_private_configuration_travels_as_json():
    config = private_config()
    assert TrainConfig.from_json(asdict(config)) == config
    assert TrainConfig.from_json(asdict(config)).digest == config.digest
    assert replace(config, privacy=None).digest != config.digest


def test_what_a_private_training_does_not_use_gives_it_no_other_name_and_so_spends_no_budget_twice():
    recipe, target = recipes.build("xray_32_cpu"), DP(epsilon=8.0, delta=1e-5)
    unused = {"spectrum_target": "all", "spectrum_weight": 0.5, "sketch": 8, "sketch_weight": 60.0, "gamma": 0.3}
    assert recipes.private(replace(recipe, **unused), target).digest == recipes.private(recipe, target).digest


@pytest.fixture
def admitted(tmp_path):
    zones = Zones.under(tmp_path)
    cohort = ValidatedCohort(
        cohort=prepared_cohort(zones, 120, 32), suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1
    )
    return cohort, zones


def request(seed: int, **changes) -> TrainRequest:
    target = PrivacyTarget(**({"epsilon": 6.0, "total_epsilon": 9.0} | changes))
    return TrainRequest(recipe="xray_32_cpu", seed=seed, total_kimg=0.2, privacy=target)


def test_nights_compose_and_the_one_that_would_exceed_the_total_is_refused_with_both_numbers(admitted, monkeypatch):
    cohort, zones = admitted
    monkeypatch.setattr(recipes, "_PRIVATE_BATCH", 32)
    first = train(cohort, request(0), zones=zones).privacy
    assert 5.5 < first.epsilon <= 6.0
    assert first.spent_epsilon == first.epsilon
    assert first.delta == pytest.approx(1 / (10 * cohort.cohort.patients["train"]))
    assert train(cohort, request(0), zones=zones).privacy == first  # found, not trained again
    second = train(cohort, request(1), zones=zones).privacy
    assert (second.trainings, first.spent_epsilon < second.spent_epsilon <= 9.0) == (2, True)
    with pytest.raises(PrivacyRefused, match=rf"from epsilon {second.spent_epsilon:.3f} to \d+\.\d+ .* 9\.000 is all"):
        train(cohort, request(2), zones=zones)
    assert budget.spent("xray-120", delta=first.delta, zones=zones).trainings == 2


def test_a_run_that_died_after_it_reserved_has_spent(admitted, monkeypatch):
    cohort, zones = admitted
    monkeypatch.setattr(recipes, "_PRIVATE_BATCH", 32)
    monkeypatch.setattr(private.Game, "play", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(cohort, request(0), zones=zones)
    assert budget.spent("xray-120", delta=1e-3, zones=zones).trainings == 1


def test_a_delta_too_large_for_so_few_patients_is_refused(admitted):
    cohort, zones = admitted
    with pytest.raises(InvalidRequest, match="at most"):
        train(cohort, request(0, delta=0.005), zones=zones)
