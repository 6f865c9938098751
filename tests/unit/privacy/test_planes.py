from __future__ import annotations

import numpy as np

from medgan.cohort import planes
from medgan.privacy import attack, policy, stages
from medgan.privacy.views import to_view


def test_volumes_are_looked_at_in_planes_along_every_axis():
    volumes = np.arange(2 * 8 * 8 * 8, dtype=np.uint16).reshape(2, 8, 8, 8)
    seen = planes.several(volumes, planes.filled(volumes))
    assert list(seen) == ["slice 5 of 8", "slice 3 of 8", "slice 7 of 8", "middle row", "middle column"]
    assert np.array_equal(seen["slice 5 of 8"], planes.middle(volumes))
    assert np.array_equal(seen["middle row"], volumes[:, :, 4])
    assert np.array_equal(seen["middle column"], volumes[:, :, :, 4])
    assert planes.several(volumes[:, 0], planes.filled(volumes[:, 0])).keys() == {""}
    assert planes.middle(volumes[:, 0]) is not volumes


def test_empty_slices_at_the_ends_of_a_flat_stack_are_not_looked_at():
    volumes = np.zeros((3, 32, 8, 8), dtype=np.uint16)
    volumes[:, 9:22, 2] = 7
    assert planes.filled(volumes) == (15, 12, 18)
    assert [plane.any() for plane in planes.several(volumes, planes.filled(volumes)).values()][:3] == [True] * 3
    assert planes.filled(volumes * 0) == (16,)


def test_a_volume_copied_in_one_plane_only_is_refused(case):
    fresh = to_view(case.fresh[:150], (0, 65535))
    copied = fresh.copy()
    copied[[3, 40]] = case.real.train[[5, 6]]
    limits = policy.load("internal")
    real = {"slice 5 of 8": case.real, "middle row": case.real}
    stage = stages.Stage(name="", slices=(), real=real, counts={})
    tests, report = attack._assess_stages({"slice 5 of 8": fresh, "middle row": copied}, [stage], limits)
    refusals = {test.title for test in tests if test.test == "G1" and not test.passed}
    assert refusals == {"exact and near-exact copies, middle row"}
    assert report["copies"] == [3, 40]
    assert set(report["apart"]) == set(real)
    counts = {"train images": 1, "train patients": 1}
    assert any("five planes" in text for text in attack.not_tested(tests, counts, volumes=True))
