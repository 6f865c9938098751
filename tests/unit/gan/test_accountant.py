from __future__ import annotations

import pytest

from medgan.errors import InvalidRequest
from medgan.gan.accountant import Ledger, Steps, prv_epsilon, solve_sigma

# Epsilon of Opacus 1.6.0 by (sigma, rate, steps, delta): RDP (orders 1.1..10.9 and 12..63), PRV (its default errors)
OPACUS = {
    (1.0, 0.01, 1000, 1e-5): (2.1013652716430564, 1.8383716370172951),
    (5.25, 4096 / 60000, 2200, 1e-5): (2.751171013954336, 2.543357574914527),
    (3.5, 1024 / 5000, 1000, 2e-5): (9.809290579688982, 9.092497331358286),
    (0.8, 0.004, 5000, 1e-6): (3.392487653680443, 2.917456768989771),
    (14.3, 4096 / 60000, 2200, 1e-5): (0.9019849769158554, 0.8342151279149942),
}


@pytest.mark.parametrize(("spent", "epsilons"), OPACUS.items())
def test_epsilon_is_that_of_opacus(spent, epsilons):
    sigma, rate, steps, delta = spent
    ledger = Ledger([Steps(sigma, rate, steps)])
    assert ledger.renyi_epsilon(delta) == pytest.approx(epsilons[0], rel=1e-6)
    assert ledger.epsilon(delta) == pytest.approx(epsilons[1], rel=1e-3)


def test_a_long_run_is_bounded_as_in_opacus():
    assert Ledger([Steps(2.0, 512 / 60000, 174000)]).renyi_epsilon(1e-5) == pytest.approx(10.079120449303085, rel=1e-6)


def test_nights_of_different_noise_compose_as_in_opacus():
    assert Ledger([Steps(1.0, 0.01, 1500), Steps(2.0, 0.02, 1000)]).epsilon(1e-5) == pytest.approx(2.65578757, rel=1e-3)


def test_without_sampling_one_step_costs_what_the_gaussian_mechanism_costs():
    # Balle and Wang 2018, theorem 8, solved for epsilon at sigma 2 and delta 1e-5
    assert prv_epsilon([Steps(2.0, 1.0, 1)], 1e-5) == pytest.approx(1.9930914, abs=0.015)


def test_nights_compose_and_an_equal_night_is_joined():
    ledger = Ledger()
    for _ in range(3):
        ledger.spend(Steps(1.0, 0.01, 500))
        ledger.spend(Steps(2.0, 0.01, 500))
    assert [steps.count for steps in ledger.history] == [1500, 1500]
    assert ledger.epsilon(1e-5) > Ledger([Steps(1.0, 0.01, 1500)]).epsilon(1e-5)
    assert Ledger().epsilon(1e-5) == 0


def test_sigma_is_solved_to_the_budget():
    sigma = solve_sigma(epsilon=8.0, delta=1e-5, rate=0.05, steps=1000)
    assert 0.98 * 8 < Ledger([Steps(sigma, 0.05, 1000)]).epsilon(1e-5) <= 8.0


def test_no_noise_reaches_an_impossible_budget():
    with pytest.raises(InvalidRequest, match="no noise"):
        solve_sigma(epsilon=1e-4, delta=1e-5, rate=1.0, steps=10**7)
