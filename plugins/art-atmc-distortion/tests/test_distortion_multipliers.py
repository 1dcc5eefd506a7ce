"""Multipliers against problems whose primal and dual solutions are known."""

import math

import numpy as np
import pytest
import torch
from art_atmc_distortion import (
    Additive,
    AugmentedLagrangian,
    Fixed,
    Hinge,
    Lagrangian,
    Multiplicative,
    Multiplier,
    NuPI,
)
from art_atmc_distortion.multipliers import LEAST, MOST
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

MOVING = (
    Multiplicative(rate=0.1, average=0.5),
    Additive(rate=0.1),
    NuPI(rate=0.1, proportional=1.0),
    AugmentedLagrangian(penalty=0.5),
)
FIXED = Fixed(2.0), Hinge(2.0)


def solved(rule, objective, measure, bound, start, steps=1000, lr=0.05):
    """Gradient descent on the variables while the multiplier moves; both at the end."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    lagrangian = Lagrangian([bound], rule)
    for _ in range(steps):
        x.grad = None
        lagrangian(objective(x), [measure(x)]).backward()
        with torch.no_grad():
            x -= lr * x.grad
    return x.detach(), lagrangian.values[0]


@pytest.mark.parametrize("rule", MOVING, ids=lambda rule: type(rule).__name__)
def test_a_point_on_a_line_has_its_known_multiplier(rule):
    # min x^2 + y^2 with x + y >= 1, which is 2 - x - y <= 1: (1/2, 1/2) and 1.
    x, value = solved(rule, lambda x: x.square().sum(), lambda x: 2 - x.sum(), 1.0, [3.0, -1.0])
    assert torch.allclose(x, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-3)
    assert value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rule", MOVING, ids=lambda rule: type(rule).__name__)
def test_the_end_of_an_interval_has_its_known_multiplier(rule):
    # min x with x^2 <= 1: -1, and 1 = 2 * multiplier.
    x, value = solved(rule, lambda x: x.sum(), lambda x: x.square().sum(), 1.0, [0.5], lr=0.05)
    assert float(x) == pytest.approx(-1, abs=1e-3)
    assert value == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("rule", MOVING, ids=lambda rule: type(rule).__name__)
def test_a_bound_with_slack_costs_nothing(rule):
    _, value = solved(rule, lambda x: x.square().sum(), lambda x: x.sum() + 1, 2.0, [0.5], steps=700)
    exact = isinstance(rule, Additive | AugmentedLagrangian)
    assert value == 0 if exact else value < 1e-6


def test_random_quadratic_programs_agree_with_slsqp():
    random = np.random.default_rng(0)
    for _ in range(50):
        root = random.normal(size=(3, 3))
        q, linear, normal = root @ root.T + np.eye(3), random.normal(size=3), random.normal(size=3)
        bound = random.uniform(0.5, 2)

        def objective(x, q=q, linear=linear):
            return x @ q @ x / 2 + linear @ x

        constraint = {"type": "ineq", "fun": lambda x, n=normal, b=bound: b - n @ x - 1}
        expected = minimize(objective, np.zeros(3), method="SLSQP", constraints=[constraint], tol=1e-10).x
        curvature = float(normal @ np.linalg.solve(q, normal)) / bound**2
        multiplier = Multiplier(Additive(rate=0.5 / curvature))
        for _ in range(60):  # the minimum for a multiplier is known, so that only the multiplier is tried
            x = -np.linalg.solve(q, linear + multiplier.value * normal / bound)
            multiplier.step(float(normal @ x + 1) / bound - 1)
        assert np.allclose(x, expected, atol=1e-3)


def test_gaussian_components_are_filled_like_water():
    variances = torch.tensor([9.0, 4.0, 1.0, 0.25], dtype=torch.float64)
    bound = 2.0  # water level 0.583: the last component lies below it
    share = torch.zeros(4, dtype=torch.float64, requires_grad=True)  # of each variance, before a sigmoid
    lagrangian = Lagrangian([bound], Multiplicative(rate=0.05, average=0.5))
    optimizer = torch.optim.Adam([share], lr=0.05)
    for step in range(2000):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 2000)
        optimizer.zero_grad()
        log_share = torch.nn.functional.logsigmoid(share)
        d = variances * log_share.exp()
        lagrangian(-log_share.sum() / (2 * math.log(2)), [d.sum()]).backward()
        optimizer.step()
    level = (bound - 0.25) / 3
    expected = torch.tensor([level, level, level, 0.25], dtype=torch.float64)
    assert torch.allclose((variances * share.sigmoid()).detach(), expected, rtol=5e-3)
    # -dR/dD at the level, in units of the bound.
    assert lagrangian.values[0] == pytest.approx(bound / (2 * math.log(2) * level), rel=0.02)


@pytest.mark.parametrize("rule", [*MOVING, *FIXED], ids=lambda rule: type(rule).__name__)
def test_a_state_goes_on_bit_for_bit(rule):
    violations = np.random.default_rng(0).normal(size=40).tolist()
    whole, first, second = Multiplier(rule), Multiplier(rule), Multiplier(rule)
    for violation in violations:
        whole.step(violation)
    for violation in violations[:17]:
        first.step(violation)
    second.load_state_dict(first.state_dict())
    for violation in violations[17:]:
        second.step(violation)
    assert second.state_dict() == whole.state_dict()


def test_a_state_of_another_rule_is_refused():
    with pytest.raises(ValueError, match="no state of Additive"):
        Multiplier(Additive()).load_state_dict(Multiplier(NuPI()).state_dict())
    with pytest.raises(ValueError, match="no state of Additive"):
        Multiplier(Additive()).load_state_dict({"value": -1.0, "memory": []})
    with pytest.raises(ValueError, match="1 multipliers, for 2 bounds"):
        Lagrangian([1.0, 2.0]).load_state_dict(Lagrangian([1.0]).state_dict())


@pytest.mark.parametrize("rule", [*MOVING, *FIXED], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("wild", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_and_moves_nothing(rule, wild):
    lagrangian = Lagrangian([1.0, 2.0], rule)
    before = lagrangian.state_dict()
    with pytest.raises(FloatingPointError, match=r"\[2.0\] are infinite or NaN"):
        lagrangian(torch.tensor(1.0), [torch.tensor(3.0), torch.tensor(wild)])
    assert lagrangian.state_dict() == before
    multiplier = Multiplier(rule)
    with pytest.raises(FloatingPointError, match="no longer a number"):
        multiplier.step(wild)
    assert multiplier.value == rule.start


@pytest.mark.parametrize("rule", MOVING, ids=lambda rule: type(rule).__name__)
def test_the_unit_of_a_measure_does_not_matter(rule):
    random = np.random.default_rng(0).uniform(0, 3, size=50)
    plain, scaled = Lagrangian([1.5], rule), Lagrangian([1.5 * 1024], rule)
    for value in random:
        one = plain(torch.tensor(1.0), [torch.tensor(value)])
        assert float(one) == float(scaled(torch.tensor(1.0), [torch.tensor(value * 1024)]))
    assert plain.values == scaled.values


@given(
    st.sampled_from((*MOVING, *FIXED)),
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), max_size=60),
)
@settings(deadline=None, max_examples=60)
def test_multipliers_stay_in_their_range(rule, violations):
    multiplier = Multiplier(rule)
    for violation in violations:
        multiplier.step(violation)
        assert 0 <= multiplier.value <= MOST
    if isinstance(rule, Multiplicative | NuPI):
        assert multiplier.value >= LEAST


@pytest.mark.parametrize("rule", [Multiplicative(rate=1.0), Additive(rate=1e3)], ids=lambda rule: type(rule).__name__)
def test_a_multiplier_that_runs_away_is_held_and_said(rule):
    lagrangian = Lagrangian([1.0], rule)

    def run():
        for _ in range(30):
            lagrangian(torch.tensor(0.0), [torch.tensor(5.0)])

    with pytest.warns(UserWarning, match="no network of this kind meets them"):
        run()
    assert lagrangian.values == (MOST,)
    run()  # it is said once


def test_an_integral_at_its_end_comes_back_at_once():
    multiplier = Multiplier(NuPI(rate=1.0, proportional=0.0))
    for _ in range(1000):
        multiplier.step(5.0)
    multiplier.step(-1.0)
    assert multiplier.value == pytest.approx(MOST / math.e)


def test_frozen_multipliers_wait():
    lagrangian = Lagrangian([1.0], Additive(rate=0.5), frozen=2)
    seen = []
    for _ in range(4):
        lagrangian(torch.tensor(0.0), [torch.tensor(2.0)])
        seen.append(lagrangian.values[0])
    assert seen == [1, 1, 1.5, 2]


def test_what_moves_the_multiplier_may_be_counted_elsewhere():
    lagrangian = Lagrangian([100.0], Additive(rate=1.0))
    x = torch.tensor(3.0, requires_grad=True)
    lagrangian(x, [100 * x], observed=[150.0]).backward()
    assert x.grad.item() == 2
    assert lagrangian.values == (1.5,)


def test_the_quadratic_term_is_that_of_the_text():
    for value, gap in ((0.0, 0.5), (1.0, -0.1), (1.0, -9.0)):
        x = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
        AugmentedLagrangian(penalty=2.0).term(value, x).backward()
        assert x.grad.item() == pytest.approx(max(0.0, value + 2 * gap))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Multiplicative(start=0), "can't grow by factors"),
        (lambda: Multiplicative(rate=1.5), r"`rate` must be in \(0, 1\]"),
        (lambda: NuPI(average=1), r"`average` must be in \[0, 1\)"),
        (lambda: Additive(rate=0), "`rate` must be positive"),
        (lambda: AugmentedLagrangian(penalty=0), "without one use Additive"),
        (lambda: Lagrangian([0.0]), "`bounds` must be positive"),
        (lambda: Lagrangian([math.inf]), "`bounds` must be positive"),
        (lambda: Lagrangian([]), "one bound at least"),
        (lambda: Lagrangian([1.0], frozen=-1), "`frozen` must be an integer of at least 0"),
        (lambda: Lagrangian([1.0])(torch.tensor(0.0), []), "one measure for each of 1 bounds, got 0"),
    ],
)
def test_bad_configurations_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
