from __future__ import annotations

import warnings

import pytest

from tests.bench import deid_leaks


@pytest.fixture(scope="module")
def files():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(deid_leaks.planted_files(rounds=1, step=9))


def test_the_scanner_finds_everything_that_a_no_op_leaves(files):
    planted = sum(len(one.needles) for one in files)
    assert sum(deid_leaks.run(files, bytes)["left"].values()) == planted
    assert len({surface for one in files for surface, _ in one.needles}) >= 40
    assert planted > 1500


@pytest.mark.parametrize("expression", ["basic", deid_leaks.OPTIONS])
def test_no_needle_is_left_on_any_surface(files, expression):
    result = deid_leaks.run(files, deid_leaks.deidentifier(expression))
    assert not result["left"]
    assert not result["refused"]


def test_every_action_of_the_answer_key_is_done(files):
    result = deid_leaks.run(files, deid_leaks.deidentifier(deid_leaks.OPTIONS))
    assert result["passed"] == result["total"]


def test_a_pipeline_that_lets_one_name_through_is_seen(files):
    from medgan.deid import actions, profile

    chosen = profile.load("basic")
    rule = chosen.rules[0x00081070]
    chosen.rules[0x00081070] = rule._replace(action=actions.KEEP)
    try:
        result = deid_leaks.run(files[:3], deid_leaks.deidentifier("basic"))
    finally:
        chosen.rules[0x00081070] = rule
    assert result["refused"] == {"RESIDUE": 3}
