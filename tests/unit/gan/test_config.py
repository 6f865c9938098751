"""A configuration is checked when it is made and named by its digest."""

from dataclasses import asdict, replace

import pytest

from medgan.errors import InvalidRequest
from medgan.gan.config import TrainConfig
from medgan.gan.recipes import RECIPES, SYSTEMS, build
from tests.unit.gan.builders import small_config


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_is_valid_and_bears_its_name(name):
    assert RECIPES[name]().recipe == name
    assert TrainConfig.from_json(asdict(RECIPES[name]())) == RECIPES[name]()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 30}, "power of two"),
        ({"widths": (8, 8)}, "widths"),
        ({"backbone": "residual"}, "every resolution"),
        ({"total_kimg": 0.0}, "positive"),
        ({"augment_p": 1.0}, "leak"),
        ({"threads": 0}, "thread"),
        ({"critic_steps": 0}, "start at 1"),
    ],
)
def test_nonsense_fails_at_construction(changes, message):
    with pytest.raises(InvalidRequest, match=message):
        small_config(**changes)


def test_digest_changes_with_every_field_that_decides_weights():
    config = small_config()
    assert config.digest == small_config().digest
    others = {replace(config, **{name: value}).digest for name, value in
              {"seed": 9, "gamma": 0.3, "threads": 2, "batch": 8, "total_kimg": 1.0}.items()}  # fmt: skip
    assert len(others | {config.digest}) == 6


def test_request_overrides_budget_and_seed():
    config = build("xray_32_cpu", seed=5, total_kimg=2.0)
    assert (config.seed, config.total_kimg) == (5, 2.0)
    assert build("xray_32_cpu").total_kimg == RECIPES["xray_32_cpu"]().total_kimg


@pytest.mark.parametrize("size_px", [16, 32, 64])
@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_historical_system_is_a_configuration_of_any_size(name, size_px):
    config = build(f"{name}_{size_px}")
    assert (config.recipe, config.size_px) == (f"{name}_{size_px}", size_px)
